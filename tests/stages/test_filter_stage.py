import json
import random

import pyarrow.parquet as pq
import pytest

from provenlm.core.records import Record
from provenlm.filtering import metrics

WORDS = [f"{a}{b}e" for a in "abcdefgh" for b in "klmnopqr"]


def record(text: str | bytes, source: str = "s") -> Record:
    return Record.from_content(text if isinstance(text, bytes) else text.encode(), "text/plain", source)


def good(seed: int) -> Record:
    return record(" ".join(random.Random(seed).choices(WORDS, k=50)), f"good/{seed}")


BAD = [
    record("two words", "a"),
    record("", "b"),
    record(b"\xff caf\xe9 and more words here", "c"),
    record("the same line\n" * 40, "d"),
]


def test_records_in_are_kept_and_dropped_by_reason(project):
    project.scraped([*[good(i) for i in range(20)], *BAD])
    project.run("filter")
    values = project.values("filter")
    assert values["records.in"] == 24
    assert values["records.kept"] == 20
    assert {name: value for name, value in values.items() if name.startswith("dropped.")} == {
        "dropped.too_short": 2,
        "dropped.not_utf8": 1,
        "dropped.repeated_lines": 1,
    }
    assert values["balance"] == 0
    assert values["bytes.in"] - values["bytes.kept"] == sum(len(item.content) for item in BAD)


def test_kept_records_stay_in_order_and_carry_their_score(project):
    project.scraped([BAD[0], good(1), BAD[1], good(2)])
    project.run("filter")
    assert [(item.source, item.facts["score"]) for item in project.records("filtered")] == [("good/1", 1.0), ("good/2", 1.0)]


def test_dropped_records_are_kept_apart_with_reason_and_parts(project):
    project.scraped([good(1), *BAD])
    project.run("filter")
    rows = pq.read_table(project.layout.corpus("c", "filtered") / "dropped.parquet").to_pylist()
    assert [(row["id"], row["source"], row["reason"]) for row in rows] == [
        (BAD[0].id, "a", "too_short"),
        (BAD[1].id, "b", "too_short"),
        (BAD[2].id, "c", "not_utf8"),
        (BAD[3].id, "d", "repeated_lines"),
    ]
    assert json.loads(rows[3]["parts"])["repeated_lines"] == 0


def test_scores_are_told_before_the_selection_and_after(project):
    project.scraped([good(1), good(2), good(3), BAD[0]])
    project.run("filter")
    values = project.values("filter")
    assert (values["score.before.share_good"], values["score.after.share_good"]) == (0.75, 1.0)
    assert (values["score.before.mean"], values["score.after.mean"]) == (0.75, 1.0)
    assert (values["score.before.median"], values["score.after.median"]) == (1.0, 1.0)


def test_the_bars_of_scores_and_lengths_count_every_record(project):
    project.scraped([*[good(i) for i in range(5)], *BAD])
    for series in project.run("filter").series:
        assert len(series.x) == len(series.lines["before"]) + 1
        assert (sum(series.lines["before"]), sum(series.lines["after"])) == (9, 5)


def test_a_few_dropped_records_of_each_reason_are_shown(project):
    project.scraped([good(1), *[record(f"only {i}", f"short/{i}") for i in range(5)], BAD[2]])
    (table,) = (table for table in project.run("filter").tables if table.name == "dropped")
    assert [row[1] for row in table.rows] == ["not_utf8", *["too_short"] * metrics.EXAMPLES_PER_REASON]
    assert table.rows[1] == ["short/0", "too_short", 0.0, "only 0"]


def test_a_corpus_without_a_record_left_is_an_error_that_counts_the_reasons(project):
    project.scraped(BAD)
    with pytest.raises(
        SystemExit, match=r"corpora\.c\.filter: no record is left; dropped 2 too_short, 1 not_utf8, 1 repeated_lines"
    ):
        project.run("filter")
    assert not project.layout.corpus("c", "filtered").exists()


def test_a_corpus_without_a_record_at_all_is_an_error(project):
    project.scraped([])
    with pytest.raises(SystemExit, match="no record is left; dropped none: there were no records"):
        project.run("filter")


def test_a_missing_corpus_is_an_error_that_says_how_to_make_it(project):
    with pytest.raises(SystemExit, match="data/c/scraped: not there"):
        project.run("filter")


def test_a_second_run_leaves_the_same_files(project):
    project.scraped([*[good(i) for i in range(20)], *BAD])
    project.run("filter")
    first = {path.name: path.read_bytes() for path in project.layout.corpus("c", "filtered").iterdir()}
    project.run("filter")
    assert {path.name: path.read_bytes() for path in project.layout.corpus("c", "filtered").iterdir()} == first


def test_the_inputs_outputs_and_params_are_signed(project):
    project.scraped([good(1)])
    provenance = project.run("filter").provenance
    assert [path for path, _ in provenance["inputs"]] == ["data/c/scraped"]
    assert [path for path, _ in provenance["outputs"]] == ["data/c/filtered"]
    assert list(provenance["params"]) == ["corpora.c.filter"]


def test_lines_that_are_taken_out_are_counted_by_reason(project):
    project.params(filter=project.sections["filter"] | {"lines": {"of": ["reference"], "words": 6}})
    project.scraped([record(good(1).text + ".\nno end of a line that has words\nfew words.")])
    project.run("filter")
    values = project.values("filter")
    assert {name: value for name, value in values.items() if name.startswith("lines.")} == {
        "lines.not_ended": 1,
        "lines.few_words": 1,
    }
    assert (values["bytes.masked"], values["balance"]) == (43, 0)
    assert [item.text for item in project.records("filtered")] == [good(1).text + "."]
