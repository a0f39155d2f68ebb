import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from provenlm.core.record import Record
from provenlm.corpus import dedupe_figures, duplicates, minhash

WORDS = [f"w{i}" for i in range(900)]


def prose(seed: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=200)


def record(words: list[str], source: str, score: float = 1.0, gap: str = " ") -> Record:
    return Record.of(gap.join(words).encode(), "text/plain", source, score=score)


def changed(words: list[str], place: int) -> list[str]:
    return [*words[:place], "other", *words[place + 1 :]]


@pytest.fixture
def planted(project):
    """Thirty unrelated records, three exact copies but for whitespace, four near ones of lower score."""
    records = [record(prose(i), f"original/{i}") for i in range(30)]
    records += [record(prose(i), f"exact/{i}", 0.9, "  ") for i in range(3)]
    records += [record(changed(prose(i), 100), f"near/{i}", 0.8) for i in range(10, 14)]
    project.put("filtered", records)
    return project


def test_records_in_are_unique_or_twins(planted):
    planted.run("dedupe")
    values = planted.values("dedupe")
    expected = {
        "records.in": 37,
        "records.unique": 30,
        "twins.exact": 3,
        "twins.near": 4,
        "balance": 0,
        "clusters": 30,
        "clusters.largest": 2,
        "pairs.verified": 4,
    }
    assert {name: values[name] for name in expected} == expected
    assert values["bytes.unique"] == sum(len(item.body) for item in planted.records("deduped"))


def test_every_twin_names_the_record_that_it_repeats(planted):
    planted.run("dedupe")
    rows = pq.read_table(planted.layout.corpus("c", "deduped") / "twins.parquet").to_pylist()
    assert {(row["source"], row["of_source"], row["kind"]) for row in rows} == {
        *((f"exact/{i}", f"original/{i}", "exact") for i in range(3)),
        *((f"near/{i}", f"original/{i}", "near") for i in range(10, 14)),
    }
    kept = {item.id for item in planted.records("deduped")}
    assert {row["of"] for row in rows} <= kept
    assert not {row["id"] for row in rows} & kept
    # one of 200 words differs: 3 of the 198 runs of three words are not shared
    assert [row["similarity"] for row in rows if row["kind"] == "near"] == pytest.approx([195 / 201] * 4, abs=0.001)


def test_kept_records_carry_the_smallest_id_of_their_cluster(planted):
    filtered = {item.source: item.id for item in planted.records("filtered")}
    planted.run("dedupe")
    clusters = {item.source: item.facts["cluster"] for item in planted.records("deduped")}
    assert clusters["original/11"] == min(filtered["original/11"], filtered["near/11"])
    assert clusters["original/1"] == min(filtered["original/1"], filtered["exact/1"])
    assert clusters["original/20"] == filtered["original/20"]


def test_the_oracle_finds_nothing_that_the_search_missed(planted):
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert values["oracle.records"] == 34  # exact copies are compared once
    assert (values["oracle.pairs"], values["oracle.pairs_left"]) == (4, 0)
    assert (values["oracle.recall"], values["oracle.precision"]) == (1.0, 1.0)


def test_the_oracle_shows_a_search_that_misses(planted, monkeypatch):
    monkeypatch.setattr(duplicates, "candidates", lambda keys, ranks: minhash.candidates(keys, ranks)[:3])
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert (values["oracle.pairs_left"], values["oracle.recall"]) == (1, 0.75)


def test_the_oracle_shows_a_removal_without_a_cause(planted, monkeypatch):
    unrelated, near = [(0, 1)], [(i, i + 20) for i in range(10, 14)]
    monkeypatch.setattr(duplicates, "candidates", lambda keys, ranks: np.array(unrelated + near))
    monkeypatch.setattr(duplicates, "compare", lambda pairs, sets: np.ones(len(pairs)))
    planted.run("dedupe")
    assert planted.values("dedupe")["oracle.precision"] == 4 / 5


def test_without_pairs_recall_is_a_word_that_no_bound_admits(project):
    project.put("filtered", [record(prose(i), f"s/{i}") for i in range(5)])
    project.run("dedupe")
    values = project.values("dedupe")
    assert (values["oracle.recall"], values["oracle.precision"]) == ("no pairs", "none removed")


def test_the_least_similar_near_twins_are_shown(planted, monkeypatch):
    records = planted.records("filtered")
    monkeypatch.setattr(dedupe_figures, "SHOWN", 2)
    further = record([*prose(20)[:90], *prose(60)[:10], *prose(20)[100:]], "further", 0.5)  # ten words of 200 differ
    planted.put("filtered", [*records, further])
    (table,) = planted.run("dedupe").tables
    assert [row[:2] for row in table.rows] == [["further", "original/20"], ["near/10", "original/10"]]


def test_an_empty_corpus_is_an_error_that_names_the_section_to_loosen(project):
    project.put("filtered", [])
    with pytest.raises(SystemExit, match=r"data/c/filtered: no records; loosen corpora\.c\.filter"):
        project.run("dedupe")


def test_a_second_run_leaves_the_same_files(planted):
    planted.run("dedupe")
    first = {path.name: path.read_bytes() for path in planted.layout.corpus("c", "deduped").iterdir()}
    planted.run("dedupe")
    assert {path.name: path.read_bytes() for path in planted.layout.corpus("c", "deduped").iterdir()} == first
