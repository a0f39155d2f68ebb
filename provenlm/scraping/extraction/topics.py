"""A record in, the domain that the user's own taxonomy gives it out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.records import Record


@dataclass(frozen=True)
class Domain:
    """One domain: what is at such an address belongs to it; elsewhere what speaks of it most, in so many words."""

    tag: str
    addresses: tuple[str, ...]  # regular expressions, searched in a record's source
    words: tuple[str, ...]  # words or phrases, whatever their case
    least: int  # how often they must occur together

    def __post_init__(self) -> None:
        if not self.tag or not (self.addresses or self.words):
            raise ValueError("tag: name the domain, and addresses or words that tell it")
        if self.least < 1:
            raise ValueError("least: at least 1")
        for pattern in self.addresses:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"addresses: {pattern!r} is not a regular expression: {error}") from None


def tagger(domains: Sequence[Domain]) -> Callable[[Record], str]:
    """The tag of a record: of the first domain that knows its address, else of the one whose words it says most often (ties: the first).

    "" where no domain knows it.
    """
    addresses = [(domain.tag, [re.compile(pattern) for pattern in domain.addresses]) for domain in domains]
    words = [(domain, _any_of(domain.words)) for domain in domains if domain.words]

    def tag(record: Record) -> str:
        for name, patterns in addresses:
            if any(pattern.search(record.source) for pattern in patterns):
                return name
        text = record.body.decode("utf-8", "replace").lower()
        counts = [(len(pattern.findall(text)), domain) for domain, pattern in words]
        most = max((count for count, domain in counts if count >= domain.least), default=0)
        return next((domain.tag for count, domain in counts if count == most and count >= domain.least), "") if most else ""

    return tag


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted((word.lower() for word in words), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
