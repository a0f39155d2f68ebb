import random
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest

from provenlm.core import rng
from provenlm.core.records import Record
from provenlm.dedup import metrics, minhash, near_duplicates

WORDS = [f"w{i}" for i in range(900)]


def prose(seed: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=200)


def record(words: list[str], source: str, score: float = 1.0, gap: str = " ") -> Record:
    return Record.from_content(gap.join(words).encode(), "text/plain", source, score=score)


def with_changed_word(words: list[str], index: int) -> list[str]:
    return [*words[:index], "other", *words[index + 1 :]]


@pytest.fixture
def planted(project):
    """Write 30 unrelated records, 3 copies that differ in whitespace, and 4 near-duplicates of lower score."""
    records = [record(prose(i), f"original/{i}") for i in range(30)]
    records += [record(prose(i), f"exact/{i}", 0.9, "  ") for i in range(3)]
    records += [record(with_changed_word(prose(i), 100), f"near/{i}", 0.8) for i in range(10, 14)]
    project.write_corpus("filtered", records)
    return project


def test_every_record_is_unique_or_a_duplicate(planted):
    planted.run("dedupe")
    values = planted.values("dedupe")
    expected = {
        "records.in": 37,
        "records.unique": 30,
        "duplicates.exact": 3,
        "duplicates.near": 4,
        "unaccounted": 0,
        "clusters": 30,
        "clusters.largest": 2,
        "pairs.verified": 4,
    }
    assert {name: values[name] for name in expected} == expected
    assert values["bytes.unique"] == sum(len(item.content) for item in planted.records("deduped"))


def test_the_last_line_says_what_became_of_every_record(planted, caplog):
    planted.run("dedupe")
    line = "c: deduplicated 30 records; 7 removed: near 4, exact 3; 0 repeated paragraphs removed"
    assert line in caplog.messages


def test_every_duplicate_names_the_kept_record(planted):
    planted.run("dedupe")
    rows = pq.read_table(planted.paths.corpus_dir("c", "deduped") / "duplicates.parquet").to_pylist()
    assert {(row["source"], row["duplicate_of_source"], row["kind"]) for row in rows} == {
        *((f"exact/{i}", f"original/{i}", "exact") for i in range(3)),
        *((f"near/{i}", f"original/{i}", "near") for i in range(10, 14)),
    }
    kept = {item.id for item in planted.records("deduped")}
    assert {row["duplicate_of"] for row in rows} <= kept
    assert not {row["id"] for row in rows} & kept
    # one of 200 words differs: 3 of 198 word trigrams are not shared
    assert [row["similarity"] for row in rows if row["kind"] == "near"] == pytest.approx([195 / 201] * 4, abs=0.001)


def test_the_cluster_id_is_the_member_with_the_smallest_split_hash(planted):
    filtered = {item.source: item.id for item in planted.records("filtered")}
    planted.run("dedupe")
    clusters = {item.source: item.metadata["cluster"] for item in planted.records("deduped")}
    fraction = partial(rng.hash_to_unit, salt="held out")
    assert clusters["original/11"] == min(filtered["original/11"], filtered["near/11"], key=fraction)
    assert clusters["original/1"] == min(filtered["original/1"], filtered["exact/1"], key=fraction)
    assert clusters["original/20"] == filtered["original/20"]


def test_brute_force_finds_no_missed_pair(planted):
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert values["brute_force.records"] == 34  # exact copies are compared once
    assert (values["brute_force.pairs"], values["pairs_missed"]) == (4, 0)
    assert (values["recall"], values["precision"]) == (1.0, 1.0)


def test_synthetic_copies_at_the_threshold_are_found(planted):
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert (values["synthetic_copies"], values["synthetic_recall"]) == (34, 1.0)


def test_brute_force_reports_a_search_that_misses_pairs(planted, monkeypatch):
    monkeypatch.setattr(near_duplicates, "candidate_pairs", lambda keys, ranks: minhash.candidate_pairs(keys, ranks)[:3])
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert (values["pairs_missed"], values["recall"]) == (1, 0.75)


def test_brute_force_reports_a_wrong_removal(planted, monkeypatch):
    unrelated, near = [(0, 1)], [(i, i + 20) for i in range(10, 14)]
    monkeypatch.setattr(near_duplicates, "candidate_pairs", lambda keys, ranks: np.array(unrelated + near))
    monkeypatch.setattr(near_duplicates, "jaccard_similarities", lambda pairs, sets: np.ones(len(pairs)))
    planted.run("dedupe")
    assert planted.values("dedupe")["precision"] == 4 / 5


def test_recall_without_pairs_is_text_that_fails_every_check(project):
    project.write_corpus("filtered", [record(prose(i), f"s/{i}") for i in range(5)])
    project.run("dedupe")
    values = project.values("dedupe")
    assert (values["recall"], values["precision"]) == ("no pairs", "none removed")


def test_the_least_similar_duplicates_are_shown(planted, monkeypatch):
    records = planted.records("filtered")
    monkeypatch.setattr(metrics, "MAX_EXAMPLES", 2)
    more_records = record([*prose(20)[:90], *prose(60)[:10], *prose(20)[100:]], "further", 0.5)  # ten words of 200 differ
    planted.write_corpus("filtered", [*records, more_records])
    (table,) = (table for table in planted.run("dedupe").tables if table.name == "near_duplicates")
    assert [row[:2] for row in table.rows] == [["further", "original/20"], ["near/10", "original/10"]]


def test_an_empty_corpus_is_an_error_that_names_the_filter_section(project):
    project.write_corpus("filtered", [])
    with pytest.raises(SystemExit, match=r"data/c/filtered: must hold at least one record, got none; relax corpora\.c\.filter"):
        project.run("dedupe")


def test_a_second_run_writes_the_same_files(planted):
    planted.run("dedupe")
    first = {path.name: path.read_bytes() for path in planted.paths.corpus_dir("c", "deduped").iterdir()}
    planted.run("dedupe")
    assert {path.name: path.read_bytes() for path in planted.paths.corpus_dir("c", "deduped").iterdir()} == first


LICENSE = " ".join(prose(99)[:40])


@pytest.fixture
def headed(project):
    """Write six records; four start with the same license paragraph, one of them repeats a paragraph of its own."""
    paragraphs = [[LICENSE, " ".join(prose(i)), " ".join(prose(20 + i))] if i < 4 else [" ".join(prose(i))] for i in range(6)]
    paragraphs[2].append(paragraphs[2][1])
    project.write_corpus(
        "filtered",
        [Record.from_content("\n\n".join(b).encode(), "text/plain", f"s/{i}", score=1.0) for i, b in enumerate(paragraphs)],
    )
    return project


def paragraph_dedup(within_document: str, across_documents: str, min_documents: int = 2) -> dict[str, object]:
    return {
        "jaccard_threshold": 0.9,
        "ngram_words": 3,
        "ngram_chars": 5,
        "paragraph_dedup": {
            "min_bytes": 60,
            "min_documents": min_documents,
            "within_document": within_document,
            "across_documents": across_documents,
        },
    }


def test_repeated_paragraphs_are_counted_and_kept_if_configured(headed):
    headed.write_params(dedupe=paragraph_dedup("keep", "keep"))
    audit = headed.run("dedupe")
    values = headed.values("dedupe")
    assert [values[f"paragraphs.{name}"] for name in ("total", "dup_within_doc", "dup_across_docs")] == [15, 1, 3]
    assert [item.content for item in headed.records("deduped")] == [item.content for item in headed.records("filtered")]
    (table,) = (table for table in audit.tables if table.name == "repeated_paragraphs")
    license_row = ["s/0", 0, 3, 3 * len(LICENSE)]
    assert license_row in [row[:4] for row in table.rows]
    assert table.rows[0][:3] == ["s/2", len(LICENSE) + 2, 1]


def test_a_removed_paragraph_names_its_first_occurrence(headed):
    before = {item.source: item for item in headed.records("filtered")}
    headed.write_params(dedupe=paragraph_dedup("remove", "remove"))
    headed.run("dedupe")
    rows = pq.read_table(headed.paths.corpus_dir("c", "deduped") / "removed_paragraphs.parquet").to_pylist()
    assert {(row["source"], row["original_source"], row["kind"]) for row in rows} == {
        ("s/1", "s/0", "across_documents"),
        ("s/2", "s/0", "across_documents"),
        ("s/2", "s/2", "within_document"),
        ("s/3", "s/0", "across_documents"),
    }
    for row in rows:  # the removed bytes equal those of the first occurrence
        removed_text = before[row["source"]].content[row["start"] : row["end"]]
        assert removed_text == before[row["original_source"]].content[row["original_start"] :][: len(removed_text)]
    after = {item.source: item for item in headed.records("deduped")}
    assert after["s/0"] == before["s/0"].with_metadata(cluster=before["s/0"].id)
    assert after["s/1"].content == before["s/1"].content[len(LICENSE) + 2 :]
    assert after["s/1"].id == Record.from_content(after["s/1"].content, "", "").id
    values = headed.values("dedupe")
    assert values["unaccounted"] == 0 == values["bytes.in"] - values["bytes.unique"] - values["bytes.removed"]


def test_a_paragraph_in_fewer_than_min_documents_is_kept(headed):
    headed.write_params(dedupe=paragraph_dedup("keep", "remove", min_documents=5))
    headed.run("dedupe")
    assert headed.values("dedupe")["paragraphs.dup_across_docs"] == 0


def test_a_record_of_repeated_paragraphs_alone_is_removed_and_counted(headed):
    records = headed.records("filtered")
    parts = [*records[0].content.split(b"\n\n")[1:2], *records[1].content.split(b"\n\n")[1:2]]
    headed.write_corpus("filtered", [*records, Record.from_content(b"\n\n".join(parts), "text/plain", "patchwork", score=1.0)])
    headed.write_params(dedupe=paragraph_dedup("remove", "remove"))
    headed.run("dedupe")
    values = headed.values("dedupe")
    assert (values["documents.emptied"], values["records.unique"], values["unaccounted"]) == (1, 6, 0)
    assert values["bytes.in"] == values["bytes.unique"] + values["bytes.removed"]


def test_words_and_distinct_words_are_counted(headed):
    headed.run("dedupe")
    texts = [item.text.split() for item in headed.records("deduped")]
    values = headed.values("dedupe")
    assert values["words"] == sum(map(len, texts))
    assert values["words.unique"] == len({word for words in texts for word in words})
