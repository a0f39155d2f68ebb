"""Read the robots directives of an X-Robots-Tag header or a robots meta element."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

PRODUCT_TOKEN = "provenlm"  # user-agent product token (RFC 9309, section 2.2.1)
AGENT_NAMES = ("", "*", "robots", PRODUCT_TOKEN)  # the directives behind another name are for another crawler
DIRECTIVES = {"none": ("noindex", "nofollow"), "noindex": ("noindex",), "nofollow": ("nofollow",)}
# A directive, with its value if it has one. The value of unavailable_after is a date, which may contain a comma and colons.
ITEM = re.compile(
    r"(?P<expiry>unavailable_after)\s*:\s*(?P<date>(?:[a-z]+,)?[^,]*)|(?:max-[a-z]+-preview|max-snippet)\s*:[^,]*"
    r"|(?P<agent>[^\s,:]+)\s*:|(?P<word>[^\s,:]+)",
)


def parse_directives(lines: Iterable[str], now: datetime | None = None) -> frozenset[str]:
    """Return which of `noindex` and `nofollow` the lines demand from this crawler.

    A line is a list of directives; those after `name:` are for the crawler of that name. `none` is both, and a page is not to
    be indexed after the date of `unavailable_after`.
    """
    return frozenset(word for line in lines for word in _line_directives(line.lower(), now or datetime.now(UTC)))


def _line_directives(line: str, now: datetime) -> Iterator[str]:
    agent = ""
    for item in ITEM.finditer(line):
        if item["agent"]:
            agent = item["agent"]
        elif agent not in AGENT_NAMES:
            continue
        elif item["expiry"] and _is_past(item["date"], now):
            yield "noindex"
        elif item["word"]:
            yield from DIRECTIVES.get(item["word"], ())


def _is_past(text: str, now: datetime) -> bool:
    """Return whether a date (RFC 822, RFC 850, ISO 8601) is past; False for another text."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(text.strip().upper())
        except ValueError:
            continue
        return date.replace(tzinfo=date.tzinfo or UTC) < now
    return False
