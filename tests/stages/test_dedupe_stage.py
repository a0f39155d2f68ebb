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
    """Thirty unrelated records, three exact copies but for whitespace, four near ones of lower score."""
    records = [record(prose(i), f"original/{i}") for i in range(30)]
    records += [record(prose(i), f"exact/{i}", 0.9, "  ") for i in range(3)]
    records += [record(with_changed_word(prose(i), 100), f"near/{i}", 0.8) for i in range(10, 14)]
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


def test_kept_records_carry_the_id_of_their_cluster_that_is_held_out_first(planted):
    filtered = {item.source: item.id for item in planted.records("filtered")}
    planted.run("dedupe")
    clusters = {item.source: item.facts["cluster"] for item in planted.records("deduped")}
    fraction = partial(rng.hash_to_unit, salt="held out")
    assert clusters["original/11"] == min(filtered["original/11"], filtered["near/11"], key=fraction)
    assert clusters["original/1"] == min(filtered["original/1"], filtered["exact/1"], key=fraction)
    assert clusters["original/20"] == filtered["original/20"]


def test_the_oracle_finds_nothing_that_the_search_missed(planted):
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert values["oracle.records"] == 34  # exact copies are compared once
    assert (values["oracle.pairs"], values["oracle.pairs_left"]) == (4, 0)
    assert (values["oracle.recall"], values["oracle.precision"]) == (1.0, 1.0)


def test_copies_planted_just_at_the_threshold_are_found(planted):
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert (values["planted.copies"], values["planted.recall"]) == (34, 1.0)


def test_the_oracle_shows_a_search_that_misses(planted, monkeypatch):
    monkeypatch.setattr(near_duplicates, "candidates", lambda keys, ranks: minhash.candidate_pairs(keys, ranks)[:3])
    planted.run("dedupe")
    values = planted.values("dedupe")
    assert (values["oracle.pairs_left"], values["oracle.recall"]) == (1, 0.75)


def test_the_oracle_shows_a_removal_without_a_cause(planted, monkeypatch):
    unrelated, near = [(0, 1)], [(i, i + 20) for i in range(10, 14)]
    monkeypatch.setattr(near_duplicates, "candidates", lambda keys, ranks: np.array(unrelated + near))
    monkeypatch.setattr(near_duplicates, "compare", lambda pairs, sets: np.ones(len(pairs)))
    planted.run("dedupe")
    assert planted.values("dedupe")["oracle.precision"] == 4 / 5


def test_without_pairs_recall_is_a_word_that_no_bound_admits(project):
    project.put("filtered", [record(prose(i), f"s/{i}") for i in range(5)])
    project.run("dedupe")
    values = project.values("dedupe")
    assert (values["oracle.recall"], values["oracle.precision"]) == ("no pairs", "none removed")


def test_the_least_similar_near_twins_are_shown(planted, monkeypatch):
    records = planted.records("filtered")
    monkeypatch.setattr(metrics, "SHOWN", 2)
    more_records = record([*prose(20)[:90], *prose(60)[:10], *prose(20)[100:]], "further", 0.5)  # ten words of 200 differ
    planted.put("filtered", [*records, more_records])
    (table,) = (table for table in planted.run("dedupe").tables if table.name == "near_twins")
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


LICENCE = " ".join(prose(99)[:40])


@pytest.fixture
def headed(project):
    """Six records of two paragraphs; four begin with the same licence, one of them holds its own first paragraph twice."""
    bodies = [[LICENCE, " ".join(prose(i)), " ".join(prose(20 + i))] if i < 4 else [" ".join(prose(i))] for i in range(6)]
    bodies[2].append(bodies[2][1])
    project.put(
        "filtered", [Record.from_content("\n\n".join(b).encode(), "text/plain", f"s/{i}", score=1.0) for i, b in enumerate(bodies)]
    )
    return project


def blocks(inside: str, across: str, records: int = 2) -> dict[str, object]:
    return {
        "near": 0.9,
        "words": 3,
        "characters": 5,
        "blocks": {"bytes": 60, "records": records, "inside": inside, "across": across},
    }


def test_repeated_blocks_are_counted_and_kept_by_choice(headed):
    headed.params(dedupe=blocks("keep", "keep"))
    audit = headed.run("dedupe")
    values = headed.values("dedupe")
    assert [values[f"blocks.{name}"] for name in ("in", "inside", "across")] == [15, 1, 3]
    assert [item.body for item in headed.records("deduped")] == [item.body for item in headed.records("filtered")]
    (table,) = (table for table in audit.tables if table.name == "repeated_blocks")
    licence = ["s/0", 0, 3, 3 * len(LICENCE)]
    assert licence in [row[:4] for row in table.rows]
    assert table.rows[0][:3] == ["s/2", len(LICENCE) + 2, 1]


def test_a_removed_block_names_its_original_and_everything_else_stays(headed):
    before = {item.source: item for item in headed.records("filtered")}
    headed.params(dedupe=blocks("remove", "remove"))
    headed.run("dedupe")
    rows = pq.read_table(headed.layout.corpus("c", "deduped") / "blocks.parquet").to_pylist()
    assert {(row["source"], row["of_source"], row["kind"]) for row in rows} == {
        ("s/1", "s/0", "across"),
        ("s/2", "s/0", "across"),
        ("s/2", "s/2", "inside"),
        ("s/3", "s/0", "across"),
    }
    for row in rows:  # the bytes that went are those of the original
        removed_text = before[row["source"]].body[row["start"] : row["end"]]
        assert removed_text == before[row["of_source"]].body[row["of_start"] :][: len(removed_text)]
    after = {item.source: item for item in headed.records("deduped")}
    assert after["s/0"] == before["s/0"].with_facts(cluster=before["s/0"].id)
    assert after["s/1"].body == before["s/1"].body[len(LICENCE) + 2 :]
    assert after["s/1"].id == Record.from_content(after["s/1"].body, "", "").id
    values = headed.values("dedupe")
    assert values["balance"] == 0 == values["bytes.in"] - values["bytes.unique"] - values["bytes.removed"]


def test_a_block_in_fewer_records_than_asked_stays(headed):
    headed.params(dedupe=blocks("keep", "remove", records=5))
    headed.run("dedupe")
    assert headed.values("dedupe")["blocks.across"] == 0


def test_a_record_of_repeated_blocks_alone_is_emptied_and_counted(headed):
    records = headed.records("filtered")
    parts = [*records[0].body.split(b"\n\n")[1:2], *records[1].body.split(b"\n\n")[1:2]]
    headed.put("filtered", [*records, Record.from_content(b"\n\n".join(parts), "text/plain", "patchwork", score=1.0)])
    headed.params(dedupe=blocks("remove", "remove"))
    headed.run("dedupe")
    values = headed.values("dedupe")
    assert (values["emptied"], values["records.unique"], values["balance"]) == (1, 6, 0)
    assert values["bytes.in"] == values["bytes.unique"] + values["bytes.removed"]


def test_words_and_the_different_ones_are_counted(headed):
    headed.run("dedupe")
    texts = [item.text.split() for item in headed.records("deduped")]
    values = headed.values("dedupe")
    assert values["words"] == sum(map(len, texts))
    assert values["words.unique"] == len({word for words in texts for word in words})
