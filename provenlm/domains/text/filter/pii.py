"""Find, mask and count personal data and secrets in text.

Patterns are narrow on purpose: documentation is full of strings that only look like keys. A pattern is tried only if one of its anchors,
a literal that all its matches contain, occurs in the text. Reserved names and networks (RFC 2606, RFC 5737) do not count.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from provenlm.domains.text.filter.aho_corasick import (
    build_automaton,
    contained_patterns,
    email_candidates,
    find_all,
    ipv4_candidates,
    phone_candidates,
)

PiiKind = Literal["email", "ip", "phone", "secret"]

RESERVED_NAME = re.compile(
    rb"(?:^|[@.])(?:example(?:\.(?:com|org|net|edu))?|invalid|test|localhost|localdomain|local|internal|intranet|lan|home|corp)$",
    re.IGNORECASE,
)
SERVICE_ACCOUNT = re.compile(rb"(?:git|hg|svn)@")
URL_USER_PREFIX = re.compile(rb"://[^\s/@]*$")  # user-info of a URL
# What only looks like the end of a domain: an extension of a file, or an attribute in code such as q@k.mT.
FILE_OR_ATTRIBUTE = re.compile(
    rb"@\d+(?:\.\d+)?x\.[A-Za-z]+$|\.(?:png|jpe?g|gif|webp|svg|ico|bmp|tiff?|avif|pdf|css|scss|js|mjs|ts|tsx|jsx|json|html?|xml|ya?ml|toml|txt|csv"
    rb"|log|lock|ini|cfg|conf|exe|dll|dylib|whl|gz|tgz|tar|jar|service|timer|socket|[a-z]?[A-Z]|[a-z]+[A-Z]\w*"
    rb"|shape|weight|bias|dtype|grad|values|ndim|device|transpose|reshape|detach)$"
)
REMOTE_PATH = re.compile(rb":(?:[~/$]|[\w.-]+(?:/|\.\w)(?![\w.-]*@))")  # after the host in scp and git

# A number after this prefix is part of another number, a name or a path, not an IP address.
NUMBER_PREFIX = re.compile(rb"[\w.:/-]$")
VERSION_PREFIX = re.compile(
    rb"\b(?:v|section|version|release|chapter|driver|build|firmware|kernel)\.? $|(?:\boids?|object ?identifier)\b.{0,12}$",
    re.IGNORECASE,
)
ADDRESS_CONTEXT = re.compile(
    rb"\b(?:ip|ipv4|address|addr|server|servers|host|hosts|client|ping|dns|resolver|nameserver|gateway|router|proxy|subnet|peer|connect|connected"
    rb"|listen|bind|login|remote|visitor|attacker|blocked|banned|firewall)\b",
    re.IGNORECASE,
)
NETWORK_SUFFIX = re.compile(rb":\d{2,5}\b|/(?:[89]|[12]\d|3[0-2])\b")  # a port or a prefix length
NOT_A_PHONE = re.compile(
    rb"\b(?:coordinates?|coords?|lat|lon|latitude|longitude|utc|gmt|isbn|issn|order|invoice|serial)\W{0,3}(?:\w{1,12} ?)?$"
    rb"|=\s*\w[\w.]* $|\d $",
    re.IGNORECASE,
)


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
        rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=:,.\s]|-(?!-)){40,8192}-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----",
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
        rb"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,4}[A-Za-z]{2,24}(?![A-Za-z0-9@(-])",
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
        "ip",
        "ipv6",
        "2001: 2003: 240 260 2620: 280 2a 2A 2c0f: 2C0F:",
        rb"2[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{1,4}){1,6}(?:::?[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{1,4}){0,5})(?![\w:])",
    ),
    _make_pattern(
        "phone",
        "phone",
        "+",
        rb"(?<![\w+.-])\+(?=(?:[ .()-]{0,2}\d){8})[1-9]\d{0,2}[ .-]\(?\d{1,4}\)?(?:[ .-]?\d{2,8}){1,4}(?![\w-])",
        0,
        60,
    ),
    _make_pattern(
        "phone",
        "phone_national",
        "( 0 1 2 3 4 5 6 7 8 9",
        rb"(?:\([2-9]\d\d\) ?\d{3}[-. ]\d{4}|[2-9]\d\d-\d{3}-\d{4}|[2-9]\d\d\.\d{3}\.\d{4}"  # North America
        rb"|00[1-9]\d{0,2} \d{1,4}(?: \d{2,8}){1,4}"  # international
        rb"|0\d{2} \d{4} \d{4}|0\d{3} \d{3} \d{4}|0\d{4} \d{6}|0\d(?:[ .]\d\d){4}"  # Britain, France
        rb"|\(0\d{2,4}\) ?\d{3,4}[ -]?\d{4}|0\d{2,4}[/-]\d{5,8}|0\d{1,3}-\d{2,4}-\d{4})(?![\w-]|[ .]\d)",  # Germany, Japan
        0,
        50,
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
        prefix, suffix = text[max(0, match.start() - CONTEXT) : match.start()], text[match.end() : match.end() + CONTEXT]
        if not _is_harmless(pattern, match[0], prefix, suffix):
            yield match, 1 if pattern.regex.groups else 0


CONTEXT = 60  # bytes before and after a match that decide whether it is personal
LOCAL_PART = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"


CANDIDATES = {"ip": ipv4_candidates, "email": email_candidates, "phone_national": phone_candidates}  # instead of the anchor


def _search_around_anchors(pattern: PiiPattern, text: bytes) -> Iterator[re.Match[bytes]]:
    """Yield the same matches as `finditer`, searching around the anchors only."""
    searched_until = 0
    for position in CANDIDATES[pattern.name](text) if pattern.name in CANDIDATES else find_all(text, pattern.anchors[0]):
        if position >= searched_until:
            start, end = max(searched_until, position - pattern.max_before), position + pattern.max_after
            if pattern.kind == "email":  # begins where the run of characters of a local part does
                before = text[max(0, position - pattern.max_before - 1) : position]
                start = position - len(before) + len(before.rstrip(LOCAL_PART))
                match = pattern.regex.match(text, start, end) if searched_until <= start < position else None
            else:
                match = pattern.regex.search(text, start, end)
            if match and (pattern.name == "phone_national" or match.start() <= position < match.end()):
                searched_until = match.end()
                yield match


def _is_harmless(pattern: PiiPattern, value: bytes, prefix: bytes, suffix: bytes) -> bool:
    """Return whether a match is no personal data.

    It is reserved for examples, or what stands around it shows that it is something else.
    """
    if pattern.kind == "email":
        return bool(
            RESERVED_NAME.search(value)
            or SERVICE_ACCOUNT.match(value)
            or FILE_OR_ATTRIBUTE.search(value)
            or URL_USER_PREFIX.search(prefix)
            or REMOTE_PATH.match(suffix)
        )
    if pattern.kind == "ip":
        try:
            address = ipaddress.ip_address(value.decode())
        except ValueError:  # a number above 255
            return True
        return (
            not address.is_global
            or address.is_multicast
            or (_is_version(value, prefix, suffix) if pattern.name == "ip" else NUMBER_PREFIX.search(prefix) is not None)
        )
    if pattern.kind == "phone":
        is_decimal = b"." in value and b" " in value  # coordinates such as +48.8566 2.3522
        return (
            is_decimal or bool(NOT_A_PHONE.search(prefix)) or (pattern.name == "phone_national" and prefix[-1:] in PHONE_PREFIXES)
        )
    return b"EXAMPLE" in value


PHONE_PREFIXES = [bytes([byte]) for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+/$"]


def _is_version(value: bytes, prefix: bytes, suffix: bytes) -> bool:
    """Return whether four numbers are a version, a section or an object identifier.

    Small numbers are an address only if a word before them, a port or a prefix length says so.
    """
    if (NUMBER_PREFIX.search(prefix) and not prefix.endswith((b"//", b": ", b":", b"/"))) or VERSION_PREFIX.search(prefix):
        return True
    is_small = all(int(number) < 100 for number in value.split(b"."))
    return is_small and not (ADDRESS_CONTEXT.search(prefix) or NETWORK_SUFFIX.match(suffix) or prefix.endswith(b"//"))


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
