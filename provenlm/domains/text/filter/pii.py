"""Find, mask and count personal data and secrets in text.

Patterns are narrow on purpose: documentation is full of strings that only look like keys. A pattern is tried only if one of its anchors,
a literal that all its matches contain, occurs in the text. Reserved names and networks (RFC 2606, RFC 5737) do not count.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from provenlm.domains.text.filter.aho_corasick import build_automaton, contained_patterns, find_all, ipv4_candidates

PiiKind = Literal["email", "ip", "phone", "secret"]

RESERVED_NAME = re.compile(
    rb"(?:^|[@.])(?:example(?:\.(?:com|org|net|edu))?|invalid|test|localhost|localdomain|local)$", re.IGNORECASE
)

# Four numbers after this prefix are a version or a section, not an IP address.
VERSION_PREFIX = re.compile(rb"(?:[\w.:/-]|\b(?:v|section|version|release|chapter)\.? )$", re.IGNORECASE)


class PiiPattern(NamedTuple):
    """Describe one kind of personal data.

    The match is group 1 if the regex has a group.

    anchors: literals; a text that contains none of them has no match.
    max_before, max_after: if set, there is one anchor and only the bytes around each occurrence are searched: a match begins at most
    max_before bytes before the anchor and ends, lookahead included, at most max_after bytes after it.
    """

    kind: PiiKind
    name: str
    anchors: tuple[bytes, ...]
    regex: re.Pattern[bytes]
    max_before: int
    max_after: int


def _make_pattern(kind: PiiKind, name: str, anchors: str, regex: bytes, max_before: int = 0, max_after: int = 0) -> PiiPattern:
    return PiiPattern(kind, name, tuple(anchor.encode() for anchor in anchors.split()), re.compile(regex), max_before, max_after)


TOKEN_START = rb"(?<![A-Za-z0-9_+/=-])"  # not part of a longer token
TOKEN_END = rb"(?![A-Za-z0-9_+/=-])"
PII_PATTERNS = (
    _make_pattern(
        "secret",
        "private_key",
        "PRIVATE",
        rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=:,.\s-]{40,8192}?-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----",
    ),
    _make_pattern("secret", "aws", "AKIA ASIA", TOKEN_START + rb"(?:AKIA|ASIA)[A-Z2-7]{16}" + TOKEN_END),
    _make_pattern(
        "secret",
        "github",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        TOKEN_START + rb"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})" + TOKEN_END,
    ),
    _make_pattern("secret", "gitlab", "glpat-", TOKEN_START + rb"glpat-[A-Za-z0-9_-]{20,64}" + TOKEN_END),
    _make_pattern("secret", "slack", "xox", TOKEN_START + rb"xox[abeoprs]-[0-9]{8,}-[A-Za-z0-9-]{10,250}" + TOKEN_END),
    _make_pattern("secret", "google", "AIza", TOKEN_START + rb"AIza[A-Za-z0-9_-]{35}" + TOKEN_END),
    _make_pattern("secret", "hugging_face", "hf_", TOKEN_START + rb"hf_[A-Za-z]{34}" + TOKEN_END),
    _make_pattern(
        "secret",
        "openai",
        "sk-",
        TOKEN_START + rb"sk-(?:proj-|ant-[a-z0-9]+-)?(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{32,200}" + TOKEN_END,
    ),
    _make_pattern("secret", "stripe", "k_live_", TOKEN_START + rb"[rs]k_live_[A-Za-z0-9]{24,247}" + TOKEN_END),
    _make_pattern("secret", "npm", "npm_", TOKEN_START + rb"npm_[A-Za-z0-9]{36}" + TOKEN_END),
    _make_pattern("secret", "pypi", "pypi-AgE", TOKEN_START + rb"pypi-AgE[A-Za-z0-9_-]{50,1000}" + TOKEN_END),
    _make_pattern("secret", "jwt", "eyJ", TOKEN_START + rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
    _make_pattern(
        "secret",
        "url_password",
        "://",
        rb"[a-z][a-z0-9+.-]{1,20}://[A-Za-z0-9._%+-]{1,64}:(?![<{\[$*]|(?:pass(?:word|wd)?|secret|pwd|pw|xxx+|\.\.\.)@)([^\s/@:\"'<>]{6,64})@(?=[A-Za-z0-9])",
        21,
        150,
    ),
    _make_pattern(
        "email",
        "email",
        "@",
        rb"(?<![A-Za-z0-9._%+/:-])[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,4}[A-Za-z]{2,24}(?![A-Za-z0-9@(-])",
        64,
        300,
    ),
    _make_pattern(
        "ip",
        "ip",
        ".",
        rb"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\w)",
        3,
        20,
    ),
    _make_pattern(
        "phone",
        "phone",
        "+",
        rb"(?<![\w+.-])\+(?=(?:[ .()-]{0,2}\d){8})[1-9]\d{0,2}[ .-]\(?\d{1,4}\)?(?:[ .-]\d{2,8}){1,4}(?![\w-])",
        0,
        60,
    ),
)


class PiiMatch(NamedTuple):
    """Locate a match of pattern `name` in the bytes `start` to `end`."""

    start: int
    end: int
    kind: PiiKind
    name: str


ANCHORS = tuple(dict.fromkeys(anchor for pattern in PII_PATTERNS for anchor in pattern.anchors))  # at most 64, see build_automaton
ANCHOR_AUTOMATON = build_automaton(ANCHORS)


def find_pii(text: bytes) -> list[PiiMatch]:
    """Find the personal data in `text`, in order.

    Of two matches that overlap, the match of the earlier pattern is returned.
    """
    present_anchors = contained_patterns(text, ANCHOR_AUTOMATON)
    candidates = sorted(
        (priority, PiiMatch(match.start(group), match.end(group), pattern.kind, pattern.name))
        for priority, pattern in enumerate(PII_PATTERNS)
        if any(anchor in present_anchors for anchor in pattern.anchors)
        for match, group in _matches(pattern, text)
    )
    accepted: list[PiiMatch] = []
    for _, candidate in candidates:
        if all(candidate.end <= earlier.start or candidate.start >= earlier.end for earlier in accepted):
            accepted.append(candidate)
    return sorted(accepted)


def _matches(pattern: PiiPattern, text: bytes) -> Iterator[tuple[re.Match[bytes], int]]:
    for match in _search_around_anchors(pattern, text) if pattern.max_after else pattern.regex.finditer(text):
        if not _is_reserved(pattern.kind, match[0], text[max(0, match.start() - 10) : match.start()]):
            yield match, 1 if pattern.regex.groups else 0


def _search_around_anchors(pattern: PiiPattern, text: bytes) -> Iterator[re.Match[bytes]]:
    """Yield the same matches as `finditer`, searching around the anchors only."""
    (anchor,), searched_until = pattern.anchors, 0
    for position in ipv4_candidates(text) if pattern.kind == "ip" else find_all(text, anchor):
        if position >= searched_until:
            match = pattern.regex.search(text, max(searched_until, position - pattern.max_before), position + pattern.max_after)
            if match and match.start() <= position < match.end():
                searched_until = match.end()
                yield match


def _is_reserved(kind: PiiKind, value: bytes, prefix: bytes) -> bool:
    if kind == "email":
        return RESERVED_NAME.search(value) is not None
    if kind == "ip":
        if VERSION_PREFIX.search(prefix):
            return True
        try:
            return not ipaddress.ip_address(value.decode()).is_global
        except ValueError:  # a number above 255
            return True
    return False


def mask_pii(text: bytes, matches: list[PiiMatch], actions: Mapping[PiiKind, str]) -> bytes:
    """Replace each match whose action is "mask" by `<kind>`."""
    pieces, position = [], 0
    for match in matches:
        if actions[match.kind] == "mask":
            pieces += [text[position : match.start], f"<{match.kind}>".encode()]
            position = match.end
    return b"".join([*pieces, text[position:]])


def count_pii(matches: list[PiiMatch]) -> Mapping[str, int]:
    """Count the matches by metric name."""
    return Counter(f"pii.{match.name}" for match in matches)
