"""Detect crawler traps: many URLs that differ only in their query or date.

Calendars and search forms have no end.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

TRAILING_DATE = re.compile(
    r"(?<!\d)(?:19|20|21)\d\d(?:[-/_.]?(?:1[0-2]|0?[1-9])(?:[-/_.]?(?:3[01]|[12]\d|0?[1-9]))?)?(?!\d)(?=[^/]*/?$)"
)


def url_template(url: str) -> str:
    """Return the path of a URL with a trailing date replaced.

    "" for a URL with neither query nor date.
    """
    path, mark, _ = url.partition("?")
    dateless = TRAILING_DATE.sub("#", path)
    return dateless if mark or dateless != path else ""


class TrapGuard:
    """Count the URLs of each template on one host; each URL counts once."""

    def __init__(self, urls: Iterable[str]) -> None:
        self.urls_by_template: dict[str, set[str]] = defaultdict(set)
        for url in urls:
            if template := url_template(url):
                self.urls_by_template[template].add(url)

    def skip_reason(self, url: str, max_variants: int) -> str:
        """Return "" for the first `max_variants` URLs of a template, then "trap-variants"."""
        template = url_template(url)
        if not template or url in self.urls_by_template[template]:
            return ""
        if len(self.urls_by_template[template]) >= max_variants:
            return "trap-variants"
        self.urls_by_template[template].add(url)
        return ""
