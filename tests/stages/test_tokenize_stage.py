import argparse
import inspect
import json
import random

import numpy as np
import pytest

from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.domains.text.tokenize import spec as text_tokenize
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from stages import tokenize

WORDS = [f"{a}{b}{c}e" for a in "abcdefgh" for b in "klmnopqr" for c in "stuvwxyz"]


def record(seed: int) -> Record:
    words = random.Random(seed).choices(WORDS, k=60)
    return Record.from_content((" ".join(words[:30]) + "\n\t" + "  ".join(words[30:])).encode(), "text/plain", f"s/{seed}")


@pytest.fixture
def deduped(project):
    """Run filter and dedupe on 40 records."""
    project.write_scraped([record(seed) for seed in range(40)])
    project.run("filter")
    project.run("dedupe")
    return project


def test_every_record_is_in_one_split_with_all_its_bytes(deduped):
    deduped.run("tokenize")
    values = deduped.values("tokenize")
    tokens = token_dataset.load_token_dataset(deduped.paths.corpus_dir("c", "tokens"))
    assert values["records.in"] == 40 == values["documents.train"] + values["documents.val"]
    assert values["documents.val"] == len(tokens.val.record_ids) > 0
    assert (values["tokens.train"], values["tokens.val"]) == (len(tokens.train.ids), len(tokens.val.ids))
    assert values["bytes.train"] + values["bytes.val"] == sum(len(item.content) for item in deduped.records("deduped"))
    assert (values["unaccounted"], values["split.shared_clusters"]) == (0, 0)


def test_the_last_line_says_what_became_of_every_record(deduped, caplog):
    deduped.run("tokenize")
    values = deduped.values("tokenize")
    train, val = (f"{values[f'documents.{name}']} ({values[f'tokens.{name}']} tokens)" for name in ("train", "val"))
    line = f"c: tokenized 40 records: train {train}, val {val}; 0 missing, 0 decode to other bytes"
    assert line in caplog.messages


def test_the_tokens_decode_to_the_contents(deduped):
    deduped.run("tokenize")
    folder = deduped.paths.corpus_dir("c", "tokens")
    tokenizer, tokens = (
        sentencepiece_model.load_sentencepiece_tokenizer(folder / "tokenizer"),
        token_dataset.load_token_dataset(folder),
    )
    contents = {item.id: item.content for item in deduped.records("deduped")}
    for split in (tokens.train, tokens.val):
        for index, record_id in enumerate(split.record_ids):
            ids = split.ids[split.doc_offsets[index] : split.doc_offsets[index + 1]].tolist()
            assert (ids[0], ids[-1]) == (2, 3)
            assert tokenizer.decode(ids) == contents[record_id]
    assert deduped.values("tokenize")["integrity.decode_mismatch"] == 0


def test_the_tokenizer_is_trained_on_the_training_split_only(deduped, monkeypatch):
    training_ids: list[str] = []

    def train(config, read):
        training_ids.extend(item.id for item in read())
        return text_tokenize.train_tokenizer(config, read)

    spec = text_tokenize.SPEC
    monkeypatch.setattr(text_tokenize, "SPEC", type(spec)(spec.config_type, train, spec.load, spec.val_fraction))
    deduped.run("tokenize")
    assert training_ids == token_dataset.load_token_dataset(deduped.paths.corpus_dir("c", "tokens")).train.record_ids


def test_a_tokenizer_that_loses_bytes_is_counted_and_named(deduped, monkeypatch):
    monkeypatch.setattr(
        sentencepiece_model.SentencePieceTokenizer, "decode", lambda tokenizer, ids: b"".join(tokenizer._bytes[i] for i in ids[2:])
    )
    audit = deduped.run("tokenize")
    assert audit.metrics["integrity.decode_mismatch"].value == 40
    (table,) = (table for table in audit.tables if table.name == "integrity.decode_mismatch")
    assert [row[0] for row in table.rows] == [item.id for item in deduped.records("deduped")[:20]]


def test_a_duplicate_cluster_is_in_one_split(deduped):
    items = [item.with_metadata(cluster=f"cluster {index % 8}") for index, item in enumerate(deduped.records("deduped"))]
    deduped.write_corpus("deduped", items)
    deduped.run("tokenize")
    cluster = {item.id: item.metadata["cluster"] for item in items}
    tokens = token_dataset.load_token_dataset(deduped.paths.corpus_dir("c", "tokens"))
    train, val = ({cluster[name] for name in split.record_ids} for split in (tokens.train, tokens.val))
    assert not train & val
    assert len(train) + len(val) == 8


def test_the_retention_table_leads_from_scraped_bytes_to_tokens(deduped):
    audit = deduped.run("tokenize")
    values = deduped.values("tokenize")
    size = sum(len(record(seed).content) for seed in range(40))
    (table,) = (table for table in audit.tables if table.name == "retention")
    assert [row[:3] for row in table.rows[:4]] == [
        ["downloaded", 40, 10**6],
        ["scraped", 40, size],
        ["kept by the filter", 40, size],
        ["deduplicated", 40, size],
    ]
    assert table.rows[4] == [
        "training split",
        values["documents.train"],
        values["bytes.train"],
        values["retention"],
        values["tokens.train"],
    ]
    assert values["retention"] == pytest.approx(values["bytes.train"] / size, abs=1e-6)


def test_every_record_is_matched_and_nothing_is_lost(deduped):
    deduped.run("tokenize")
    values = deduped.values("tokenize")
    assert (
        values["integrity.matched"],
        values["integrity.missing"],
        values["integrity.extra"],
        values["pipeline.unaccounted_total"],
    ) == (40, 0, 0, 0)


def test_a_record_missing_from_the_arrays_is_counted(deduped, monkeypatch):
    write = token_dataset.write_token_dataset
    monkeypatch.setattr(
        token_dataset, "write_token_dataset", lambda folder, documents, *rest: write(folder, list(documents)[1:], *rest)
    )
    audit = deduped.run("tokenize")
    first = deduped.records("deduped")[0]
    (table,) = (table for table in audit.tables if table.name == "integrity.missing")
    assert (audit.metrics["integrity.missing"].value, table.rows) == (1, [[first.id, first.source]])
    assert audit.metrics["pipeline.unaccounted_total"].value > 0


def test_a_stage_that_loses_bytes_is_unaccounted(deduped):
    path = deduped.paths.audit_json("c", "dedupe")
    metrics = json.loads(path.read_text())
    metrics["metrics"]["bytes.unique"] -= 7
    path.write_text(json.dumps(metrics))
    audit = deduped.run("tokenize")
    (table,) = (table for table in audit.tables if table.name == "pipeline")
    assert [row[-1] for row in table.rows] == [0, 0, 7, -7, 0]
    assert audit.metrics["pipeline.unaccounted_total"].value == 14


def test_the_corpus_is_broken_down_by_record_metadata(project):
    metadata = {seed: {"license": "PSF" if seed < 10 else "MIT", "topic": "words"} for seed in range(40)}
    project.write_scraped([record(seed).with_metadata(**metadata[seed]) for seed in range(40)])
    for name in ("filter", "dedupe"):
        project.run(name)
    audit = project.run("tokenize")
    tables = {table.name: table for table in audit.tables}
    assert [row[:2] for row in tables["by_license"].rows] == [["MIT", 30], ["PSF", 10]]
    assert sum(row[2] for row in tables["by_license"].rows) == sum(len(record(seed).content) for seed in range(40))
    assert [row[0] for row in tables["by_topic"].rows] == ["words"]
    assert tables["by_topic"].rows[0][-1] == 1.0
    assert "by_language" not in tables


def test_contamination_prompts_are_searched_in_both_splits(deduped):
    from_training = shards_of(deduped)["train"][:25].decode()
    tokenize = {"vocab_size": 512, "sample_bytes": 10**6, "character_coverage": 0.9995, "val_fraction": 0.2}
    deduped.write_params(tokenize=tokenize | {"contamination_prompts": [from_training, "of no record", "e"]})
    audit = deduped.run("tokenize")
    values = deduped.values("tokenize")
    assert (values["contamination.prompts"], values["contamination.prompts_in_train"], values["contamination.prompts_in_val"]) == (
        3,
        2,
        1,
    )
    (table,) = (table for table in audit.tables if table.name == "contamination")
    both = [values["documents.train"], values["documents.val"]]
    assert table.rows == [[repr(from_training), 1, 0], ["'of no record'", 0, 0], ["'e'", *both]]


def shards_of(project) -> dict[str, bytes]:
    """Return the content of the first record of each split."""
    return {
        token_dataset.assign_split(item.metadata["cluster"], 0.2): item.content for item in reversed(project.records("deduped"))
    }


def test_a_corpus_changed_between_stages_is_an_error(deduped):
    deduped.write_scraped([record(seed) for seed in range(41)])
    with pytest.raises(
        SystemExit, match=r"filter\.records\.in: must equal scrape\.records = 41, got 40; run `dvc repro` from scrape on"
    ):
        deduped.run("tokenize")


def test_records_unknown_to_dedupe_are_an_error(deduped):
    deduped.write_corpus("deduped", deduped.records("deduped")[1:])
    with pytest.raises(SystemExit, match=r"tokenize\.records\.in: must equal dedupe\.records\.unique = 40, got 39"):
        deduped.run("tokenize")


def test_a_missing_audit_is_an_error_that_names_it(deduped):
    deduped.paths.audit_json("c", "filter").unlink()
    with pytest.raises(SystemExit, match=r"reports/audits/c/filter\.json: does not exist"):
        deduped.run("tokenize")


def test_records_without_a_cluster_are_an_error(deduped):
    deduped.write_corpus("deduped", [record(seed) for seed in range(40)])
    with pytest.raises(SystemExit, match="must have a `cluster` in its metadata; run dedupe again"):
        deduped.run("tokenize")


def test_holding_out_every_record_is_an_error(deduped):
    tokenize = {"vocab_size": 512, "sample_bytes": 1000, "character_coverage": 1.0, "val_fraction": 0.9999}
    deduped.write_params(tokenize=tokenize)
    with pytest.raises(
        SystemExit, match=r"corpora\.c\.tokenize\.val_fraction: must leave at least one of 40 records to train on, got 0\.9999"
    ):
        deduped.run("tokenize")


def test_a_second_run_writes_the_same_files(deduped):
    def contents() -> dict[str, bytes]:
        folder = deduped.paths.corpus_dir("c", "tokens")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    deduped.run("tokenize")
    first = contents()
    deduped.run("tokenize")
    assert contents() == first
    assert set(first) == {
        "train.bin",
        "val.bin",
        "index.parquet",
        "manifest.json",
        "tokenizer/tokenizer.model",
        "tokenizer/metadata.json",
    }


def test_strings_pass_all_stages_with_nothing_held_out(project):
    strings = ["ABCDE", "FGHIJ", "ABCDE", "12345"]
    project.write_params(
        domain="strings", scrape={"strings": strings}, filter={}, dedupe={}, tokenize={"val_fraction": 0, "add_eos": False}
    )
    for name in ("scrape", "filter", "dedupe", "tokenize"):
        project.run(name)
    values = project.values("tokenize")
    assert (values["vocab_size"], values["tokens.train"], values["tokens.val"]) == (16, 15, 0)
    assert project.values("dedupe")["duplicates.exact"] == 1
    assert "recall" not in project.values("dedupe")


SOURCE = inspect.getsource(argparse)
LONG_TEXTS = {
    "code": SOURCE[:2500],
    "one line": " ".join(SOURCE[:2500].split()),
    "one word": "".join(SOURCE[:1500].split()),
    "blanks": "".join(random.Random(7).choices(" \n\t\r", k=1500)),
    "few letters": "".join(random.Random(8).choices("e t-_", k=1500)),
    "other scripts": "潮の満ち引き、月と太陽。ภาษาไทย e\u0301👩‍👩‍👧‍👦 \u2581 x\u2581\u2581y " * 40,
    "special pieces": "<s></s><pad><unk><0x0A>\0 " * 60,
    "not UTF-8": (SOURCE[:1500].encode() + b"\xff\xfe caf\xe9\n").decode("utf-8", "surrogateescape") * 2,
}


@pytest.fixture(scope="module")
def bpe():
    records = [Record.from_content(text.encode(), "text/plain", "s") for text in SOURCE.split("\n\n")]
    tokenizer = sentencepiece_model.train_sentencepiece_tokenizer(lambda: records, 900, 0.999, 200_000)
    return tokenizer, fastokens_backend.attach_verified_backend(tokenizer, lambda: records)


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_a_long_text_in_parts_has_the_ids_of_the_whole_text(bpe, text):
    item = Record.from_content(text.encode("utf-8", "surrogateescape"), "text/plain", "s")
    for tokenizer in bpe:
        whole = tokenizer.encode([item])[0]
        for max_chars in (6, 300):
            parts = list(tokenize.split_record(item, tokenize.joined_pairs(tokenizer), max_chars))
            assert len(parts) > 1 and b"".join(part.content for part in parts) == item.content
            assert np.array_equal(np.concatenate(tokenizer.encode(parts)), whole)


def test_a_text_cut_inside_its_pieces_has_other_ids(bpe):
    item = Record.from_content(LONG_TEXTS["code"].encode(), "text/plain", "s")
    parts = list(tokenize.split_record(item, (), 64))
    assert not np.array_equal(np.concatenate(bpe[0].encode(parts)), bpe[0].encode([item])[0])


def test_the_encode_step_cuts_long_texts_and_only_those(bpe, monkeypatch):
    monkeypatch.setattr(tokenize, "MAX_PART_CHARS", 500)
    batch = [Record.from_content(text.encode(), "text/plain", "s") for text in ("", "short", SOURCE[:4000])]
    sizes: list[int] = []

    class Observed(sentencepiece_model.SentencePieceTokenizer):
        def encode(self, records):
            sizes.extend(len(item.content) for item in records)
            return super().encode(records)

    results = tokenize.make_encode_step(Observed(bpe[0].model_proto)).apply(batch)
    assert all(np.array_equal(ids, whole) for ids, whole in zip(results, bpe[0].encode(batch), strict=True))
    assert sizes[:2] == [0, 5] and sum(sizes) == 4005 and max(sizes) < 600


def test_a_unigram_model_encodes_a_text_as_a_whole(bpe):
    records = [Record.from_content(line.encode(), "text/plain", "s") for line in SOURCE.split("\n\n")]
    unigram = sentencepiece_model.train_sentencepiece_tokenizer(lambda: records, 600, 0.999, 200_000, "unigram")
    assert tokenize.joined_pairs(unigram) is None
