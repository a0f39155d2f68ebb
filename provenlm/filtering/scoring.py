"""Score records and decide which to drop, with the reason.

A domain gives each record sub-scores from 0 to 1 and possibly a drop reason; the score is the geometric mean of the sub-scores.
"""

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
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("drop_reason", pa.string()),
        ("score", pa.float64()),
        ("sub_scores", pa.string()),
        ("text", pa.large_string()),
    ]
)


@dataclass(frozen=True, slots=True)
class FilterDecision:
    """Say whether a record is dropped, and why.

    drop_reason: None if the record is kept.
    score: geometric mean of `sub_scores`, from 0 to 1.
    counts: occurrences counted in the record, by metric name.
    original_bytes: size of the content before personal data was masked and lines were removed.
    """

    record: Record
    drop_reason: str | None
    score: float
    sub_scores: Mapping[str, float]
    counts: Mapping[str, int]
    original_bytes: int


def make_filter_step(spec: FilterSpec, config: Any) -> RecordMap[FilterDecision]:
    """Build the step that filters records.

    A record without a drop reason of its own is dropped if its score is below the minimum.
    """
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
    """Encode a decision as one line of JSON followed by the content of the record."""
    record = decision.record
    header: list[Any] = [record.id, record.media_type, record.source, dict(record.metadata)]
    header += [decision.drop_reason, decision.score, dict(decision.sub_scores), dict(decision.counts), decision.original_bytes]
    return json.dumps(header).encode() + b"\n" + record.content


def deserialize(packed: bytes) -> FilterDecision:
    """Decode what `serialize` encoded."""
    header, _, content = packed.partition(b"\n")
    record_id, media_type, source, metadata, drop_reason, score, sub_scores, counts, original_bytes = json.loads(header)
    return FilterDecision(
        Record(record_id, media_type, source, content, metadata), drop_reason, score, sub_scores, counts, original_bytes
    )


def geometric_mean_score(sub_scores: Mapping[str, float]) -> float:
    """Compute the geometric mean of `sub_scores`; 1 if there are none.

    Raises ValueError if one is outside 0 to 1.

    Unlike the arithmetic mean it is 0 if any sub-score is 0, so one fatal fault cannot be compensated by the other statistics.
    """
    product = math.prod(sub_scores.values())
    if sub_scores and (min(sub_scores.values()) < 0 or max(sub_scores.values()) > 1 or math.isnan(product)):
        invalid = [f"{name}={sub_score}" for name, sub_score in sub_scores.items() if not 0 <= sub_score <= 1]
        raise ValueError(f"sub-scores must be from 0 to 1, got {', '.join(invalid)}")
    return product ** (1 / max(1, len(sub_scores)))


def trapezoid(
    values: NDArray[np.float64], drop_below: float, good_from: float, good_to: float, drop_above: float
) -> NDArray[np.float64]:
    """Compute a trapezoidal membership from 0 to 1.

    It is 1 from `good_from` to `good_to` and falls linearly to 0 at `drop_below` and at `drop_above`.

    A side whose outer edge is infinite stays at 1.
    """
    membership = np.ones(len(values))
    if not math.isinf(drop_below):
        membership = np.where(values < good_from, np.maximum(0.0, (values - drop_below) / (good_from - drop_below)), membership)
    if not math.isinf(drop_above):
        membership = np.where(values > good_to, np.maximum(0.0, (drop_above - values) / (drop_above - good_to)), membership)
    return membership


class ExclusionWriter(ParquetAppender):
    """Write the dropped records, their reasons and their text to a Parquet file.

    Bytes of the content that are no UTF-8 become U+FFFD. Masked personal data stays masked.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, EXCLUSION_SCHEMA)

    def add(self, decision: FilterDecision) -> None:
        """Append one dropped record."""
        record, sub_scores = decision.record, json.dumps(dict(decision.sub_scores), sort_keys=True)
        self.append(
            id=record.id,
            source=record.source,
            drop_reason=decision.drop_reason,
            score=decision.score,
            sub_scores=sub_scores,
            text=record.content.decode("utf-8", "replace"),
        )
