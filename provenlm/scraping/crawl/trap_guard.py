"""Addresses in; out, which of them differ from too many others in their query or date alone: calendars and search forms never end."""

import re
from collections import defaultdict
from collections.abc import Iterable

DATE = re.compile(r"(?<!\d)(?:19|20|21)\d\d(?:[-/_.]?(?:1[0-2]|0?[1-9])(?:[-/_.]?(?:3[01]|[12]\d|0?[1-9]))?)?(?!\d)(?=[^/]*/?$)")


def shape(url: str) -> str:
    """What addresses of one kind share: the path, its date replaced where it ends in one; "" for an address that is one of its kind."""
    path, mark, _ = url.partition("?")
    dateless = DATE.sub("#", path)
    return dateless if mark or dateless != path else ""


class Variants:
    """How many addresses of each shape a host has shown, each counted once."""

    def __init__(self, urls: Iterable[str]) -> None:
        self.seen: dict[str, set[str]] = defaultdict(set)
        for url in urls:
            if kind := shape(url):
                self.seen[kind].add(url)

    def reason_against(self, url: str, limit: int) -> str:
        """ "" for the first `limit` addresses of a shape."""
        kind = shape(url)
        if not kind or url in self.seen[kind]:
            return ""
        if len(self.seen[kind]) >= limit:
            return "trap-variants"
        self.seen[kind].add(url)
        return ""
