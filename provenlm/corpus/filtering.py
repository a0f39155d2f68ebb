"""Records, rules and scores in; out, for each record, the reason to drop it or none, its score and the parts of its score."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core.record import Record, Rule

LOW_SCORE = "low_score"
SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("score", pa.float64()), ("parts", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A record, why it is dropped (None: it is kept), and its score from 0 to 1 with the named parts that make it."""

    record: Record
    reason: str | None
    score: float
    parts: Mapping[str, float]


def judge(
    records: Iterable[Record], rules: Sequence[Rule], parts: Callable[[Record], Mapping[str, float]], least: float
) -> Iterator[Judged]:
    """Each record with the reason of the first rule that gives one; else with `low_score` if its score is below `least`."""
    for record in records:
        reason = next((reason for rule in rules if (reason := rule(record)) is not None), None)
        named = parts(record)
        score = score_of(named)
        yield Judged(record, reason if reason is not None else LOW_SCORE if score < least else None, score, named)


def score_of(parts: Mapping[str, float]) -> float:
    """The geometric mean of `parts`, 1 without any; ValueError if one is outside 0 to 1.

    Unlike an arithmetic mean it is 0 when one part is 0: what is wholly wrong in one way is not made up for in the others.
    """
    wrong = [f"{name}={part}" for name, part in parts.items() if not 0 <= part <= 1]
    if wrong:
        raise ValueError(f"parts of a score are from 0 to 1, got {', '.join(wrong)}")
    if not parts:
        return 1.0
    return math.prod(parts.values()) ** (1 / len(parts))


def trapezoid(value: float, lowest: float, good_from: float, good_to: float, highest: float) -> float:
    """1 from `good_from` to `good_to`, falling in straight lines to 0 at `lowest` and at `highest`. An infinite edge does not fall."""
    if value < good_from:
        return 1.0 if math.isinf(lowest) else max(0.0, (value - lowest) / (good_from - lowest))
    if value > good_to:
        return 1.0 if math.isinf(highest) else max(0.0, (highest - value) / (highest - good_to))
    return 1.0


class Dropped:
    """The Parquet file of what was dropped and why, written a few thousand rows at a time."""

    def __init__(self, path: Path) -> None:
        self._rows: list[dict[str, object]] = []
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def add(self, judged: Judged) -> None:
        record = judged.record
        self._rows.append(
            {
                "id": record.id,
                "source": record.source,
                "reason": judged.reason,
                "score": judged.score,
                "parts": json.dumps(dict(judged.parts), sort_keys=True),
            }
        )
        if len(self._rows) >= 4096:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows = []

    def __enter__(self) -> "Dropped":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self._writer.close()
