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

from provenlm.core.executors.base import RecordMap
from provenlm.core.interfaces import FilterResult, FilterSpec
from provenlm.core.records import Record
from provenlm.filtering.parquet_writer import ParquetAppender

LOW_SCORE = "low_score"
EXCLUSION_SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("score", pa.float64()), ("parts", pa.string())]
)


@dataclass(frozen=True, slots=True)
class FilterDecision:
    """A record, why it is dropped (None: it is kept), and its score from 0 to 1 with the named parts that make it.

    `found`: what was counted in it; `size`: bytes of its body before anything was masked.
    """

    record: Record
    drop_reason: str | None
    score: float
    sub_scores: Mapping[str, float]
    counts: Mapping[str, int]
    original_bytes: int


def make_filter_step(spec: FilterSpec, config: Any) -> RecordMap[FilterDecision]:
    """Each record with the reason to drop it: that of its verdict, else a low score."""
    classify, min_score = spec.classify(config), spec.min_score(config)

    def decide(original: Record, result: FilterResult) -> FilterDecision:
        score = geometric_mean_score(result.sub_scores)
        drop_reason = result.drop_reason or (LOW_SCORE if score < min_score else None)
        return FilterDecision(result.record, drop_reason, score, result.sub_scores, result.counts, len(original.content))

    return RecordMap(
        lambda batch: [decide(original, result) for original, result in zip(batch, classify(batch), strict=True)],
        serialize,
        deserialize,
    )


def serialize(decision: FilterDecision) -> bytes:
    record = decision.record
    header: list[Any] = [record.id, record.media_type, record.source, dict(record.metadata)]
    header += [decision.drop_reason, decision.score, dict(decision.sub_scores), dict(decision.counts), decision.original_bytes]
    return json.dumps(header).encode() + b"\n" + record.content


def deserialize(packed: bytes) -> FilterDecision:
    header, _, content = packed.partition(b"\n")
    record_id, media_type, source, metadata, drop_reason, score, sub_scores, counts, original_bytes = json.loads(header)
    return FilterDecision(
        Record(record_id, media_type, source, content, metadata), drop_reason, score, sub_scores, counts, original_bytes
    )


def geometric_mean_score(sub_scores: Mapping[str, float]) -> float:
    """The geometric mean of `parts`, 1 without any; ValueError if one is outside 0 to 1.

    Unlike an arithmetic mean it is 0 when one part is 0: what is wholly wrong in one way is not made up for in the others.
    """
    product = math.prod(sub_scores.values())
    if sub_scores and (min(sub_scores.values()) < 0 or max(sub_scores.values()) > 1 or math.isnan(product)):
        invalid = [f"{name}={sub_score}" for name, sub_score in sub_scores.items() if not 0 <= sub_score <= 1]
        raise ValueError(f"parts of a score are from 0 to 1, got {', '.join(invalid)}")
    return product ** (1 / max(1, len(sub_scores)))


def trapezoid(
    values: NDArray[np.float64], drop_below: float, good_from: float, good_to: float, drop_above: float
) -> NDArray[np.float64]:
    """1 from `good_from` to `good_to`, falling in straight lines to 0 at `lowest` and at `highest`. An infinite edge does not fall."""
    membership = np.ones(len(values))
    if not math.isinf(drop_below):
        membership = np.where(values < good_from, np.maximum(0.0, (values - drop_below) / (good_from - drop_below)), membership)
    if not math.isinf(drop_above):
        membership = np.where(values > good_to, np.maximum(0.0, (drop_above - values) / (drop_above - good_to)), membership)
    return membership


class ExclusionWriter(ParquetAppender):
    """The Parquet file of what was dropped and why."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, EXCLUSION_SCHEMA)

    def add(self, decision: FilterDecision) -> None:
        record, sub_scores = decision.record, json.dumps(dict(decision.sub_scores), sort_keys=True)
        self.append(id=record.id, source=record.source, reason=decision.drop_reason, score=decision.score, parts=sub_scores)
