"""Addresses in; out, which of them differ from too many others in their query or date alone: calendars and search forms never end."""

import re
from collections import defaultdict
from collections.abc import Iterable

TRAILING_DATE = re.compile(
    r"(?<!\d)(?:19|20|21)\d\d(?:[-/_.]?(?:1[0-2]|0?[1-9])(?:[-/_.]?(?:3[01]|[12]\d|0?[1-9]))?)?(?!\d)(?=[^/]*/?$)"
)


def url_template(url: str) -> str:
    """What addresses of one kind share: the path, its date replaced where it ends in one; "" for an address that is one of its kind."""
    path, mark, _ = url.partition("?")
    dateless = TRAILING_DATE.sub("#", path)
    return dateless if mark or dateless != path else ""


class TrapGuard:
    """How many addresses of each shape a host has shown, each counted once."""

    def __init__(self, urls: Iterable[str]) -> None:
        self.urls_by_template: dict[str, set[str]] = defaultdict(set)
        for url in urls:
            if template := url_template(url):
                self.urls_by_template[template].add(url)

    def skip_reason(self, url: str, max_variants: int) -> str:
        """ "" for the first `limit` addresses of a shape."""
        template = url_template(url)
        if not template or url in self.urls_by_template[template]:
            return ""
        if len(self.urls_by_template[template]) >= max_variants:
            return "trap-variants"
        self.urls_by_template[template].add(url)
        return ""
