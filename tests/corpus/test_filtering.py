import json
import math

import pyarrow.parquet as pq
import pytest

from provenlm.core.engine import Here
from provenlm.core.plugin import Filtering, Prepared
from provenlm.core.record import Record
from provenlm.corpus import filtering
from provenlm.corpus.filtering import Dropped, Judged, score_of, trapezoid


def record(text: str) -> Record:
    return Record.of(text.encode(), "text/plain", f"from/{text}")


def judge(items: list[Record], rules: list, parts, least: float, **more) -> list[Judged]:
    face = Filtering(object, lambda _: rules, lambda _: parts, lambda _: least, **more)
    return [judged for _, judged in Here(lambda: items).map(filtering.judging(face, None))]


def short(item: Record) -> str | None:
    return "short" if len(item.body) < 3 else None


def vowels(item: Record) -> str | None:
    return None if b"a" in item.body else "no_a"


def halves(item: Record) -> dict[str, float]:
    return {"length": min(1.0, len(item.body) / 8), "one": 1.0}


def test_the_first_rule_that_fires_names_the_reason():
    judged = list(judge([record("x"), record("xxxx"), record("aaaa")], [short, vowels], halves, 0.0))
    assert [item.reason for item in judged] == ["short", "no_a", None]


def test_a_score_below_the_least_drops_what_no_rule_does():
    judged = list(judge([record("aaaa"), record("aaaaaaaa")], [short], halves, 0.75))
    assert [(item.reason, item.score) for item in judged] == [("low_score", pytest.approx(math.sqrt(0.5))), (None, 1.0)]


def test_a_score_equal_to_the_least_is_kept():
    assert next(iter(judge([record("aa")], [], lambda item: {"half": 0.25}, 0.25))).reason is None


def test_a_dropped_record_keeps_its_score_and_parts():
    (judged,) = judge([record("x")], [short], halves, 0.0)
    assert judged.parts == {"length": 0.125, "one": 1.0}


def test_a_score_is_the_geometric_mean_of_its_parts():
    assert score_of({"a": 0.5, "b": 0.5, "c": 1.0, "d": 1.0}) == pytest.approx(0.25**0.25)
    assert score_of({"a": 0.0, "b": 1.0}) == 0
    assert score_of({}) == 1


@pytest.mark.parametrize("part", [-0.1, 1.1, math.nan])
def test_a_part_outside_0_to_1_is_refused(part):
    with pytest.raises(ValueError, match="from 0 to 1, got bad="):
        score_of({"good": 0.5, "bad": part})


@pytest.mark.parametrize(("value", "expected"), [(1, 0), (2, 0), (3, 0.5), (4, 1), (6, 1), (9, 0.25), (10, 0), (99, 0)])
def test_a_trapezoid_rises_and_falls_in_straight_lines(value, expected):
    assert trapezoid(value, 2, 4, 6, 10) == pytest.approx(expected)


def test_a_trapezoid_does_not_fall_towards_an_infinite_edge():
    assert trapezoid(-1e9, -math.inf, -math.inf, 1, 2) == 1
    assert trapezoid(1e9, 0, 1, math.inf, math.inf) == 1


def test_dropped_records_are_written_with_reason_score_and_parts(tmp_path):
    with Dropped(tmp_path / "dropped.parquet") as dropped:
        for item in judge([record("x")] * 5000, [short], halves, 0.0):
            dropped.add(item)
    rows = pq.read_table(tmp_path / "dropped.parquet").to_pylist()
    assert len(rows) == 5000
    assert rows[4999] | {"parts": json.loads(rows[4999]["parts"])} == {
        "id": record("x").id,
        "source": "from/x",
        "reason": "short",
        "score": math.sqrt(0.125),
        "parts": {"length": 0.125, "one": 1.0},
    }


def test_no_drop_leaves_a_table_without_rows(tmp_path):
    with Dropped(tmp_path / "dropped.parquet"):
        pass
    assert pq.read_table(tmp_path / "dropped.parquet").schema.equals(filtering.SCHEMA)


def test_a_record_is_judged_as_it_was_prepared_and_its_first_reason_is_the_preparations():
    def prepare(_):
        return lambda item: Prepared(item.with_body(b"aaaa"), {"seen": 2}, "private" if item.body == b"drop" else None)

    one, two = judge([record("aa"), record("drop")], [short], halves, 0.0, prepare=prepare)
    assert (one.record.body, one.record.id, one.size, one.reason) == (b"aaaa", record("aaaa").id, 2, None)
    assert (two.reason, two.found) == ("private", {"seen": 2})


def test_what_is_judged_travels_and_comes_back_the_same():
    for item in judge([record("x"), record("line\nline aä").with_facts(title="ö")], [short], halves, 0.5):
        assert filtering.unpack(filtering.pack(item)) == item
