"""Records of strings in; no reason to drop one and no parts of a score out: who writes a string into params.yaml wants it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.interfaces import Filtering, Verdict
from provenlm.core.records import Record


@dataclass(frozen=True)
class Settings:
    """None."""


def judge(settings: Settings) -> Callable[[Sequence[Record]], Sequence[Verdict]]:
    return lambda records: [Verdict(record, None, {}, {}) for record in records]


def least(settings: Settings) -> float:
    return 0.0


SPEC = Filtering(Settings, judge, least)
