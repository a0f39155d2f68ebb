"""Records, rules and scores in; out, for each record, the reason to drop it or none, its score and the parts of its score."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from provenlm.core.executors.base import Work
from provenlm.core.interfaces import Filtering, Verdict
from provenlm.core.records import Record
from provenlm.filtering.parquet_writer import Rows

LOW_SCORE = "low_score"
SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("score", pa.float64()), ("parts", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A record, why it is dropped (None: it is kept), and its score from 0 to 1 with the named parts that make it.

    `found`: what was counted in it; `size`: bytes of its body before anything was masked.
    """

    record: Record
    reason: str | None
    score: float
    parts: Mapping[str, float]
    found: Mapping[str, int]
    size: int


def judging(face: Filtering, settings: Any) -> Work[Judged]:
    """Each record with the reason to drop it: that of its verdict, else a low score."""
    judge, least = face.judge(settings), face.least(settings)

    def judged(raw: Record, verdict: Verdict) -> Judged:
        score = score_of(verdict.parts)
        reason = verdict.reason or (LOW_SCORE if score < least else None)
        return Judged(verdict.record, reason, score, verdict.parts, verdict.found, len(raw.body))

    return Work(lambda batch: [judged(raw, verdict) for raw, verdict in zip(batch, judge(batch), strict=True)], pack, unpack)


def pack(judged: Judged) -> bytes:
    record = judged.record
    said: list[Any] = [record.id, record.media_type, record.source, dict(record.facts)]
    said += [judged.reason, judged.score, dict(judged.parts), dict(judged.found), judged.size]
    return json.dumps(said).encode() + b"\n" + record.body


def unpack(packed: bytes) -> Judged:
    head, _, body = packed.partition(b"\n")
    identity, media_type, source, facts, reason, score, parts, found, size = json.loads(head)
    return Judged(Record(identity, media_type, source, body, facts), reason, score, parts, found, size)


def score_of(parts: Mapping[str, float]) -> float:
    """The geometric mean of `parts`, 1 without any; ValueError if one is outside 0 to 1.

    Unlike an arithmetic mean it is 0 when one part is 0: what is wholly wrong in one way is not made up for in the others.
    """
    product = math.prod(parts.values())
    if parts and (min(parts.values()) < 0 or max(parts.values()) > 1 or math.isnan(product)):
        wrong = [f"{name}={part}" for name, part in parts.items() if not 0 <= part <= 1]
        raise ValueError(f"parts of a score are from 0 to 1, got {', '.join(wrong)}")
    return product ** (1 / max(1, len(parts)))


def trapezoid(values: NDArray[np.float64], lowest: float, good_from: float, good_to: float, highest: float) -> NDArray[np.float64]:
    """1 from `good_from` to `good_to`, falling in straight lines to 0 at `lowest` and at `highest`. An infinite edge does not fall."""
    found = np.ones(len(values))
    if not math.isinf(lowest):
        found = np.where(values < good_from, np.maximum(0.0, (values - lowest) / (good_from - lowest)), found)
    if not math.isinf(highest):
        found = np.where(values > good_to, np.maximum(0.0, (highest - values) / (highest - good_to)), found)
    return found


class Dropped(Rows):
    """The Parquet file of what was dropped and why."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SCHEMA)

    def add(self, judged: Judged) -> None:
        record, parts = judged.record, json.dumps(dict(judged.parts), sort_keys=True)
        self.put(id=record.id, source=record.source, reason=judged.reason, score=judged.score, parts=parts)
