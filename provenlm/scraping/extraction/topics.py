"""A record in, the domain that the user's own taxonomy gives it out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.records import Record


@dataclass(frozen=True)
class Topic:
    """One domain: what is at such an address belongs to it; elsewhere what speaks of it most, in so many words."""

    name: str
    url_patterns: tuple[str, ...]  # regular expressions, searched in a record's source
    keywords: tuple[str, ...]  # words or phrases, whatever their case
    min_matches: int  # how often they must occur together

    def __post_init__(self) -> None:
        if not self.name or not (self.url_patterns or self.keywords):
            raise ValueError("tag: name the domain, and addresses or words that tell it")
        if self.min_matches < 1:
            raise ValueError("least: at least 1")
        for pattern in self.url_patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"addresses: {pattern!r} is not a regular expression: {error}") from None


def make_tagger(topics: Sequence[Topic]) -> Callable[[Record], str]:
    """The tag of a record: of the first domain that knows its address, else of the one whose words it says most often (ties: the first).

    "" where no domain knows it.
    """
    url_patterns = [(topic.name, [re.compile(pattern) for pattern in topic.url_patterns]) for topic in topics]
    keyword_patterns = [(topic, _any_keyword(topic.keywords)) for topic in topics if topic.keywords]

    def topic_of(record: Record) -> str:
        for name, patterns in url_patterns:
            if any(pattern.search(record.source) for pattern in patterns):
                return name
        text = record.content.decode("utf-8", "replace").lower()
        counts = [(len(pattern.findall(text)), topic) for topic, pattern in keyword_patterns]
        max_count = max((count for count, topic in counts if count >= topic.min_matches), default=0)
        return (
            next((topic.name for count, topic in counts if count == max_count and count >= topic.min_matches), "")
            if max_count
            else ""
        )

    return topic_of


def _any_keyword(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted((word.lower() for word in words), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
