"""A text in; out, what of it is personal or secret, where, and the text with signs in its place.

Patterns are narrow on purpose: a documentation is full of what only looks like a key. Each is tried only where a few letters that all
its matches hold occur, which most texts do not. Addresses in networks and names reserved for examples (RFC 2606, RFC 5737) are nobody's.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from provenlm.domains.text.filter.aho_corasick import automaton, dotted, held, places

Kind = Literal["email", "ip", "phone", "secret"]

EXAMPLE = re.compile(rb"(?:^|[@.])(?:example(?:\.(?:com|org|net|edu))?|invalid|test|localhost|localdomain|local)$", re.IGNORECASE)

NUMBERED = re.compile(rb"(?:[\w.:/-]|\b(?:v|section|version|release|chapter)\.? )$", re.IGNORECASE)  # what follows is no address


class Pattern(NamedTuple):
    """One thing to find. `hints`: a text that holds none of them holds no match; the match is group 1 where there is one.

    `before`, `after`: where they are given there is one hint, each match holds it, begins at most so many bytes before it, and ends, with
    what its expression looks at behind, at most so many after its beginning. Then only that much around each is searched.
    """

    kind: Kind
    name: str
    hints: tuple[bytes, ...]
    expression: re.Pattern[bytes]
    before: int
    after: int


def _pattern(kind: Kind, name: str, hints: str, expression: bytes, before: int = 0, after: int = 0) -> Pattern:
    return Pattern(kind, name, tuple(hint.encode() for hint in hints.split()), re.compile(expression), before, after)


WORD = rb"(?<![A-Za-z0-9_+/=-])"  # nothing before that would make it part of something longer
END = rb"(?![A-Za-z0-9_+/=-])"
PATTERNS = (
    _pattern(
        "secret",
        "private_key",
        "PRIVATE",
        rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=:,.\s-]{40,8192}?-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----",
    ),
    _pattern("secret", "aws", "AKIA ASIA", WORD + rb"(?:AKIA|ASIA)[A-Z2-7]{16}" + END),
    _pattern(
        "secret",
        "github",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        WORD + rb"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})" + END,
    ),
    _pattern("secret", "gitlab", "glpat-", WORD + rb"glpat-[A-Za-z0-9_-]{20,64}" + END),
    _pattern("secret", "slack", "xox", WORD + rb"xox[abeoprs]-[0-9]{8,}-[A-Za-z0-9-]{10,250}" + END),
    _pattern("secret", "google", "AIza", WORD + rb"AIza[A-Za-z0-9_-]{35}" + END),
    _pattern("secret", "hugging_face", "hf_", WORD + rb"hf_[A-Za-z]{34}" + END),
    _pattern("secret", "openai", "sk-", WORD + rb"sk-(?:proj-|ant-[a-z0-9]+-)?(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{32,200}" + END),
    _pattern("secret", "stripe", "k_live_", WORD + rb"[rs]k_live_[A-Za-z0-9]{24,247}" + END),
    _pattern("secret", "npm", "npm_", WORD + rb"npm_[A-Za-z0-9]{36}" + END),
    _pattern("secret", "pypi", "pypi-AgE", WORD + rb"pypi-AgE[A-Za-z0-9_-]{50,1000}" + END),
    _pattern("secret", "jwt", "eyJ", WORD + rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
    _pattern(
        "secret",
        "url_password",
        "://",
        rb"[a-z][a-z0-9+.-]{1,20}://[A-Za-z0-9._%+-]{1,64}:(?![<{\[$*]|(?:pass(?:word|wd)?|secret|pwd|pw|xxx+|\.\.\.)@)([^\s/@:\"'<>]{6,64})@(?=[A-Za-z0-9])",
        21,
        150,
    ),
    _pattern(
        "email",
        "email",
        "@",
        rb"(?<![A-Za-z0-9._%+/:-])[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,4}[A-Za-z]{2,24}(?![A-Za-z0-9@(-])",
        64,
        300,
    ),
    _pattern(
        "ip",
        "ip",
        ".",
        rb"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\w)",
        3,
        20,
    ),
    _pattern(
        "phone",
        "phone",
        "+",
        rb"(?<![\w+.-])\+(?=(?:[ .()-]{0,2}\d){8})[1-9]\d{0,2}[ .-]\(?\d{1,4}\)?(?:[ .-]\d{2,8}){1,4}(?![\w-])",
        0,
        60,
    ),
)


class Find(NamedTuple):
    """Bytes `start` to `end` of a text match the pattern `name`."""

    start: int
    end: int
    kind: Kind
    name: str


HINTS = tuple(dict.fromkeys(hint for pattern in PATTERNS for hint in pattern.hints))  # at most 64: they are bits of a number
AUTOMATON = automaton(HINTS)


def finds(text: bytes) -> list[Find]:
    """What is found in `text`, in order; of two that overlap the one of the earlier pattern."""
    seen = held(text, AUTOMATON)
    found = sorted(
        (order, Find(match.start(group), match.end(group), pattern.kind, pattern.name))
        for order, pattern in enumerate(PATTERNS)
        if any(hint in seen for hint in pattern.hints)
        for match, group in _matches(pattern, text)
    )
    taken: list[Find] = []
    for _, one in found:
        if all(one.end <= other.start or one.start >= other.end for other in taken):
            taken.append(one)
    return sorted(taken)


def _matches(pattern: Pattern, text: bytes) -> Iterator[tuple[re.Match[bytes], int]]:
    for match in _around(pattern, text) if pattern.after else pattern.expression.finditer(text):
        if not _of_nobody(pattern.kind, match[0], text[max(0, match.start() - 10) : match.start()]):
            yield match, 1 if pattern.expression.groups else 0


def _around(pattern: Pattern, text: bytes) -> Iterator[re.Match[bytes]]:
    """The matches that `finditer` gives, looked for around each hint alone."""
    (hint,), done = pattern.hints, 0
    for place in dotted(text) if pattern.kind == "ip" else places(text, hint):
        if place >= done:
            match = pattern.expression.search(text, max(done, place - pattern.before), place + pattern.after)
            if match and match.start() <= place < match.end():
                done = match.end()
                yield match


def _of_nobody(kind: Kind, value: bytes, before: bytes) -> bool:
    if kind == "email":
        return EXAMPLE.search(value) is not None
    if kind == "ip":
        if NUMBERED.search(before):
            return True
        try:
            return not ipaddress.ip_address(value.decode()).is_global
        except ValueError:  # no number of it may be above 255
            return True
    return False


def masked(text: bytes, found: list[Find], kinds: Mapping[Kind, str]) -> bytes:
    """`text` with `<kind>` in place of each find whose kind `kinds` says to mask."""
    pieces, place = [], 0
    for one in found:
        if kinds[one.kind] == "mask":
            pieces += [text[place : one.start], f"<{one.kind}>".encode()]
            place = one.end
    return b"".join([*pieces, text[place:]])


def counted(found: list[Find]) -> Mapping[str, int]:
    return Counter(f"private.{one.name}" for one in found)
