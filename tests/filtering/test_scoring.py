import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from provenlm.core.executors.local import LocalExecutor
from provenlm.core.interfaces import FilterResult, FilterSpec
from provenlm.core.records import Record
from provenlm.filtering import scoring
from provenlm.filtering.scoring import ExclusionWriter, FilterDecision, geometric_mean_score, trapezoid


def record(text: str) -> Record:
    return Record.from_content(text.encode(), "text/plain", f"from/{text}")


def decide(items: list[Record], classify, min_score: float) -> list[FilterDecision]:
    spec = FilterSpec(object, lambda _: lambda records: [classify(item) for item in records], lambda _: min_score)
    return [decision for _, decision in LocalExecutor(lambda: items).map(scoring.make_filter_step(spec, None))]


def halves(item: Record) -> FilterResult:
    drop_reason = "short" if len(item.content) < 3 else None
    return FilterResult(item, drop_reason, {"length": min(1.0, len(item.content) / 8), "one": 1.0}, {})


def test_a_score_below_the_minimum_drops_a_record_without_a_reason():
    decisions = decide([record("x"), record("aaaa"), record("aaaaaaaa")], halves, 0.75)
    assert [item.drop_reason for item in decisions] == ["short", "low_score", None]
    assert [item.score for item in decisions] == pytest.approx([math.sqrt(0.125), math.sqrt(0.5), 1])


def test_a_score_equal_to_the_minimum_is_kept():
    assert decide([record("aa")], lambda item: FilterResult(item, None, {"half": 0.25}, {}), 0.25)[0].drop_reason is None


def test_a_dropped_record_keeps_its_score_and_sub_scores():
    (decision,) = decide([record("x")], halves, 0.0)
    assert decision.sub_scores == {"length": 0.125, "one": 1.0}


def test_a_score_is_the_geometric_mean_of_its_sub_scores():
    assert geometric_mean_score({"a": 0.5, "b": 0.5, "c": 1.0, "d": 1.0}) == pytest.approx(0.25**0.25)
    assert geometric_mean_score({"a": 0.0, "b": 1.0}) == 0
    assert geometric_mean_score({}) == 1


@pytest.mark.parametrize("part", [-0.1, 1.1, math.nan])
def test_a_sub_score_outside_0_to_1_is_refused(part):
    with pytest.raises(ValueError, match="sub-scores must be from 0 to 1, got bad="):
        geometric_mean_score({"good": 0.5, "bad": part})


@pytest.mark.parametrize(("value", "expected"), [(1, 0), (2, 0), (3, 0.5), (4, 1), (6, 1), (9, 0.25), (10, 0), (99, 0)])
def test_a_trapezoid_rises_and_falls_linearly(value, expected):
    assert trapezoid(np.array([5, value]), 2, 4, 6, 10) == pytest.approx([1, expected])


def test_a_trapezoid_does_not_fall_towards_an_infinite_edge():
    assert trapezoid(np.array([-1e9]), -math.inf, -math.inf, 1, 2) == 1
    assert trapezoid(np.array([1e9]), 0, 1, math.inf, math.inf) == 1


def test_dropped_records_are_written_with_reason_score_and_sub_scores(tmp_path):
    with ExclusionWriter(tmp_path / "dropped.parquet") as writer:
        for item in decide([record("x")] * 5000, halves, 0.0):
            writer.add(item)
    rows = pq.read_table(tmp_path / "dropped.parquet").to_pylist()
    assert len(rows) == 5000
    assert rows[4999] | {"sub_scores": json.loads(rows[4999]["sub_scores"])} == {
        "id": record("x").id,
        "source": "from/x",
        "drop_reason": "short",
        "score": math.sqrt(0.125),
        "sub_scores": {"length": 0.125, "one": 1.0},
        "text": "x",
    }


def test_no_dropped_record_gives_a_table_without_rows(tmp_path):
    with ExclusionWriter(tmp_path / "dropped.parquet"):
        pass
    assert pq.read_table(tmp_path / "dropped.parquet").schema.equals(scoring.EXCLUSION_SCHEMA)


def test_original_bytes_is_the_size_before_masking():
    (decision,) = decide([record("aa")], lambda item: FilterResult(item.with_content(b"aaaa"), None, {}, {"seen": 2}), 0.0)
    assert (decision.record.content, decision.record.id, decision.original_bytes, decision.counts) == (
        b"aaaa",
        record("aaaa").id,
        2,
        {"seen": 2},
    )


def test_a_serialized_decision_is_deserialized_unchanged():
    for item in decide([record("x"), record("line\nline aä").with_metadata(title="ö")], halves, 0.5):
        assert scoring.deserialize(scoring.serialize(item)) == item
