"""Define the configuration of a report.

It says what the report covers, its checks and its schedule.
"""

import re
from dataclasses import dataclass
from typing import Any

CRON_FIELDS = (  # name, lowest and highest value, names of the values
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day of month", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("day of week", 0, 7, "sun mon tue wed thu fri sat"),
)
CRON_PART = re.compile(r"(\*|(\w+)(-(\w+))?)(/([1-9]\d*))?", re.ASCII)


@dataclass(frozen=True)
class ScheduleConfig:
    """Configure when a report is refreshed and when the result is published.

    `cron`: five fields, in UTC; null: only manual refreshes. `max_regression_bits_per_byte`: a new model is published only if its loss on
    the records that neither model was trained on is at most this much higher than that of the published model.
    """

    cron: str | None = None
    max_regression_bits_per_byte: float = 0.02

    def __post_init__(self) -> None:
        if self.max_regression_bits_per_byte < 0:
            raise ValueError(f"max_regression_bits_per_byte: must be >= 0, got {self.max_regression_bits_per_byte}")
        if self.cron is not None and (fault := cron_fault(self.cron)):
            raise ValueError(f'cron: must be null or five fields such as "0 3 * * *", got {self.cron!r}: {fault}')


@dataclass(frozen=True)
class ReportConfig:
    """Configure one report.

    `recipes` and `corpora`: what it covers. `checks`: "standard" (the checks that the stages bring with them), a mapping of metric id to
    {expect, hint}, or a list of these. `schedule`: null for a report that is not refreshed.
    """

    title: str
    recipes: tuple[str, ...]
    corpora: tuple[str, ...]
    checks: Any = "standard"
    schedule: ScheduleConfig | None = None


def cron_fault(text: str) -> str:
    """Return why `text` is no cron expression of five fields, or an empty string."""
    fields = text.split()
    if len(fields) != len(CRON_FIELDS):
        return f"it has {len(fields)} field(s)"
    for field, (name, low, high, names) in zip(fields, CRON_FIELDS, strict=True):
        for part in field.split(","):
            match = CRON_PART.fullmatch(part)
            ends = [_cron_value(end, low, names) for end in (match[2], match[4]) if end is not None] if match else [None]
            numbers = [end for end in ends if end is not None and low <= end <= high]
            if len(numbers) < len(ends) or numbers != sorted(numbers):
                return f"the field {name} must be in {low}..{high}, got {field!r}"
    return ""


def _cron_value(text: str, low: int, names: str) -> int | None:
    if text.isdecimal():
        return int(text)
    return low + names.split().index(text.lower()) if text.lower() in names.split() else None
