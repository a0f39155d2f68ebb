"""Assign topics to records by URL patterns and keywords."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.records import Record


@dataclass(frozen=True)
class Topic:
    """Define one topic by URL patterns and keywords."""

    name: str
    url_patterns: tuple[str, ...] = ()  # regular expressions, searched in the source of a record
    keywords: tuple[str, ...] = ()  # words or phrases; case is ignored
    min_matches: int = 3  # minimum number of keyword occurrences

    def __post_init__(self) -> None:
        if not self.name or not (self.url_patterns or self.keywords):
            raise ValueError("name must not be empty, and url_patterns or keywords must be given")
        if self.min_matches < 1:
            raise ValueError(f"min_matches must be >= 1, got {self.min_matches}")
        for pattern in self.url_patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"url_patterns must be regular expressions, got {pattern!r}: {error}") from None


def make_tagger(topics: Sequence[Topic]) -> Callable[[Record], str]:
    """Return a function that gives the topic of a record; "" if none applies.

    The first topic with a matching URL pattern wins, otherwise the topic with the most keyword matches (the first one on a tie).
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
