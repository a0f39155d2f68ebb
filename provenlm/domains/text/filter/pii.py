"""A text in; out, what of it is personal or secret, where, and the text with signs in its place.

Patterns are narrow on purpose: a documentation is full of what only looks like a key. Each is tried only where a few letters that all
its matches hold occur, which most texts do not. Addresses in networks and names reserved for examples (RFC 2606, RFC 5737) are nobody's.
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

VERSION_PREFIX = re.compile(
    rb"(?:[\w.:/-]|\b(?:v|section|version|release|chapter)\.? )$", re.IGNORECASE
)  # what follows is no address


class PiiPattern(NamedTuple):
    """One thing to find. `hints`: a text that holds none of them holds no match; the match is group 1 where there is one.

    `before`, `after`: where they are given there is one hint, each match holds it, begins at most so many bytes before it, and ends, with
    what its expression looks at behind, at most so many after its beginning. Then only that much around each is searched.
    """

    kind: PiiKind
    name: str
    anchors: tuple[bytes, ...]
    regex: re.Pattern[bytes]
    max_before: int
    max_after: int


def _make_pattern(kind: PiiKind, name: str, anchors: str, regex: bytes, max_before: int = 0, max_after: int = 0) -> PiiPattern:
    return PiiPattern(kind, name, tuple(anchor.encode() for anchor in anchors.split()), re.compile(regex), max_before, max_after)


TOKEN_START = rb"(?<![A-Za-z0-9_+/=-])"  # nothing before that would make it part of something longer
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
    """Bytes `start` to `end` of a text match the pattern `name`."""

    start: int
    end: int
    kind: PiiKind
    name: str


ANCHORS = tuple(
    dict.fromkeys(hint for pattern in PII_PATTERNS for hint in pattern.anchors)
)  # at most 64: they are bits of a number
ANCHOR_AUTOMATON = build_automaton(ANCHORS)


def find_pii(text: bytes) -> list[PiiMatch]:
    """What is found in `text`, in order; of two that overlap the one of the earlier pattern."""
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
    """The matches that `finditer` gives, looked for around each hint alone."""
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
        except ValueError:  # no number of it may be above 255
            return True
    return False


def mask_pii(text: bytes, matches: list[PiiMatch], actions: Mapping[PiiKind, str]) -> bytes:
    """`text` with `<kind>` in place of each find whose kind `kinds` says to mask."""
    pieces, position = [], 0
    for match in matches:
        if actions[match.kind] == "mask":
            pieces += [text[position : match.start], f"<{match.kind}>".encode()]
            position = match.end
    return b"".join([*pieces, text[position:]])


def count_pii(matches: list[PiiMatch]) -> Mapping[str, int]:
    return Counter(f"private.{match.name}" for match in matches)
