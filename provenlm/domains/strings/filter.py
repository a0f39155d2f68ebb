"""Records of strings in; no rules and no parts of a score out: who writes a string into params.yaml wants it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from provenlm.core.plugin import Filtering
from provenlm.core.record import Record, Rule


@dataclass(frozen=True)
class Settings:
    """None."""


def rules(settings: Settings) -> Sequence[Rule]:
    return []


def parts(settings: Settings) -> Callable[[Record], Mapping[str, float]]:
    return lambda record: {}


def least(settings: Settings) -> float:
    return 0.0


FACE = Filtering(Settings, rules, parts, least)
