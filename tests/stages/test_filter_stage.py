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


def test_every_record_is_kept_or_dropped_with_a_reason(project):
    project.write_scraped([*[good(i) for i in range(20)], *BAD])
    project.run("filter")
    values = project.values("filter")
    assert values["records.in"] == 24
    assert values["records.kept"] == 20
    assert {name: value for name, value in values.items() if name.startswith("dropped.")} == {
        "dropped.low_doc_words": 2,
        "dropped.not_utf8": 1,
        "dropped.high_dup_line_char_frac": 1,
    }
    assert values["unaccounted"] == 0
    assert values["bytes.in"] - values["bytes.kept"] == sum(len(item.content) for item in BAD)


def test_kept_records_keep_their_order_and_get_a_score(project):
    project.write_scraped([BAD[0], good(1), BAD[1], good(2)])
    project.run("filter")
    assert [(item.source, item.metadata["score"]) for item in project.records("filtered")] == [("good/1", 1.0), ("good/2", 1.0)]


def test_dropped_records_are_written_with_reason_and_sub_scores(project):
    project.write_scraped([good(1), *BAD])
    project.run("filter")
    rows = pq.read_table(project.paths.corpus_dir("c", "filtered") / "dropped.parquet").to_pylist()
    assert [(row["id"], row["source"], row["drop_reason"]) for row in rows] == [
        (BAD[0].id, "a", "low_doc_words"),
        (BAD[1].id, "b", "low_doc_words"),
        (BAD[2].id, "c", "not_utf8"),
        (BAD[3].id, "d", "high_dup_line_char_frac"),
    ]
    assert json.loads(rows[3]["sub_scores"])["dup_line_char_frac"] == 0
    assert [row["text"] for row in rows] == [item.content.decode("utf-8", "replace") for item in BAD]


def test_scores_are_recorded_before_and_after_filtering(project):
    project.write_scraped([good(1), good(2), good(3), BAD[0]])
    project.run("filter")
    values = project.values("filter")
    assert (values["score.before.frac_ge_0_6"], values["score.after.frac_ge_0_6"]) == (0.75, 1.0)
    assert (values["score.before.mean"], values["score.after.mean"]) == (0.75, 1.0)
    assert (values["score.before.median"], values["score.after.median"]) == (1.0, 1.0)


def test_the_histograms_count_every_record(project):
    project.write_scraped([*[good(i) for i in range(5)], *BAD])
    for series in project.run("filter").series:
        assert len(series.x_values) == len(series.y_values["before"]) + 1
        assert (sum(series.y_values["before"]), sum(series.y_values["after"])) == (9, 5)


def test_a_few_dropped_records_of_each_reason_are_shown(project):
    project.write_scraped([good(1), *[record(f"only {i}", f"short/{i}") for i in range(5)], BAD[2]])
    (table,) = (table for table in project.run("filter").tables if table.name == "dropped")
    assert [row[1] for row in table.rows] == [*["low_doc_words"] * metrics.EXAMPLES_PER_REASON, "not_utf8"]
    assert table.rows[0] == ["short/0", "low_doc_words", 0.0, "only 0"]


def test_dropping_every_record_is_an_error_that_counts_the_reasons(project):
    project.write_scraped(BAD)
    with pytest.raises(
        SystemExit, match=r"corpora\.c\.filter: must keep at least one record, got none; dropped 2 .*, 1 not_utf8, 1 "
    ):
        project.run("filter")
    assert not project.paths.corpus_dir("c", "filtered").exists()


def test_an_empty_corpus_is_an_error(project):
    project.write_scraped([])
    with pytest.raises(SystemExit, match="must keep at least one record, got none; dropped none: there were no records"):
        project.run("filter")


def test_a_missing_corpus_is_an_error_that_names_the_command(project):
    with pytest.raises(SystemExit, match="data/c/scraped: does not exist"):
        project.run("filter")


def test_a_second_run_writes_the_same_files(project):
    project.write_scraped([*[good(i) for i in range(20)], *BAD])
    project.run("filter")
    first = {path.name: path.read_bytes() for path in project.paths.corpus_dir("c", "filtered").iterdir()}
    project.run("filter")
    assert {path.name: path.read_bytes() for path in project.paths.corpus_dir("c", "filtered").iterdir()} == first


def test_the_audit_names_inputs_outputs_and_params(project):
    project.write_scraped([good(1)])
    provenance = project.run("filter").provenance
    assert [path for path, _ in provenance["inputs"]] == ["data/c/scraped"]
    assert [path for path, _ in provenance["outputs"]] == ["data/c/filtered"]
    assert list(provenance["params"]) == ["corpora.c.filter"]


def test_removed_lines_are_counted_by_reason(project):
    project.write_params(filter=project.sections["filter"] | {"line_filter": {"apply_to": ["reference"], "min_words_per_line": 6}})
    project.write_scraped([record(good(1).text + ".\nno end of a line that has words\nfew words.")])
    project.run("filter")
    values = project.values("filter")
    assert {name: value for name, value in values.items() if name.startswith("lines.")} == {
        "lines.no_terminal_punct": 1,
        "lines.too_few_words": 1,
    }
    assert (values["bytes.masked"], values["unaccounted"]) == (43, 0)
    assert [item.text for item in project.records("filtered")] == [good(1).text + "."]
