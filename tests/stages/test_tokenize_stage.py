import json
import random

import pytest

from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.domains.text.tokenize import spec as text_tokenize
from provenlm.tokenizers import sentencepiece_model

WORDS = [f"{a}{b}{c}e" for a in "abcdefgh" for b in "klmnopqr" for c in "stuvwxyz"]


def record(seed: int) -> Record:
    words = random.Random(seed).choices(WORDS, k=60)
    return Record.from_content((" ".join(words[:30]) + "\n\t" + "  ".join(words[30:])).encode(), "text/plain", f"s/{seed}")


@pytest.fixture
def deduped(project):
    """Forty records that went through filter and dedupe."""
    project.scraped([record(seed) for seed in range(40)])
    project.run("filter")
    project.run("dedupe")
    return project


def test_every_record_lies_on_one_side_with_all_its_bytes(deduped):
    deduped.run("tokenize")
    values = deduped.values("tokenize")
    tokens = token_dataset.load_token_dataset(deduped.layout.corpus("c", "tokens"))
    assert values["records.in"] == 40 == values["documents.train"] + values["documents.val"]
    assert values["documents.val"] == len(tokens.val.record_ids) > 0
    assert (values["tokens.train"], values["tokens.val"]) == (len(tokens.train.ids), len(tokens.val.ids))
    assert values["bytes.train"] + values["bytes.val"] == sum(len(item.body) for item in deduped.records("deduped"))
    assert (values["balance"], values["clusters.overlap"]) == (0, 0)


def test_the_tokens_decode_to_the_bodies(deduped):
    deduped.run("tokenize")
    folder = deduped.layout.corpus("c", "tokens")
    tokenizer, tokens = sentencepiece_model.load_sentencepiece_tokenizer(folder / "codec"), token_dataset.load_token_dataset(folder)
    contents = {item.id: item.body for item in deduped.records("deduped")}
    for split in (tokens.train, tokens.val):
        for index, record_id in enumerate(split.record_ids):
            ids = split.ids[split.doc_offsets[index] : split.doc_offsets[index + 1]].tolist()
            assert (ids[0], ids[-1]) == (2, 3)
            assert tokenizer.decode(ids) == contents[record_id]
    assert deduped.values("tokenize")["round_trip_failures"] == 0


def test_the_codec_learns_from_the_training_side_alone(deduped, monkeypatch):
    training_ids: list[str] = []

    def learn(settings, read):
        training_ids.extend(item.id for item in read())
        return text_tokenize.train_tokenizer(settings, read)

    spec = text_tokenize.SPEC
    monkeypatch.setattr(text_tokenize, "SPEC", type(spec)(spec.config_type, learn, spec.load, spec.val_fraction))
    deduped.run("tokenize")
    assert training_ids == token_dataset.load_token_dataset(deduped.layout.corpus("c", "tokens")).train.record_ids


def test_a_codec_that_loses_a_byte_is_counted_and_its_records_named(deduped, monkeypatch):
    monkeypatch.setattr(
        sentencepiece_model.SentencePieceTokenizer, "decode", lambda tokenizer, ids: b"".join(tokenizer._bytes[i] for i in ids[2:])
    )
    audit = deduped.run("tokenize")
    assert audit.figures["round_trip_failures"].value == 40
    (table,) = (table for table in audit.tables if table.name == "round_trip")
    assert [row[0] for row in table.rows] == [item.id for item in deduped.records("deduped")[:20]]


def test_near_twins_of_a_cluster_lie_on_one_side(deduped):
    items = [item.with_facts(cluster=f"cluster {index % 8}") for index, item in enumerate(deduped.records("deduped"))]
    deduped.put("deduped", items)
    deduped.run("tokenize")
    cluster = {item.id: item.facts["cluster"] for item in items}
    tokens = token_dataset.load_token_dataset(deduped.layout.corpus("c", "tokens"))
    train, val = ({cluster[name] for name in split.record_ids} for split in (tokens.train, tokens.val))
    assert not train & val
    assert len(train) + len(val) == 8


def test_the_yield_leads_from_scraped_bytes_to_training_tokens(deduped):
    audit = deduped.run("tokenize")
    values = deduped.values("tokenize")
    size = sum(len(record(seed).content) for seed in range(40))
    (table,) = (table for table in audit.tables if table.name == "yield")
    assert [row[:3] for row in table.rows[:4]] == [
        ["fetched", 40, 10**6],
        ["scraped", 40, size],
        ["kept by the filter", 40, size],
        ["unique", 40, size],
    ]
    assert table.rows[4] == [
        "trained on",
        values["documents.train"],
        values["bytes.train"],
        values["yield"],
        values["tokens.train"],
    ]
    assert values["yield"] == pytest.approx(values["bytes.train"] / size, abs=1e-6)


def test_every_record_is_found_by_its_digest_and_nothing_is_lost_on_the_way(deduped):
    deduped.run("tokenize")
    values = deduped.values("tokenize")
    assert (values["found"], values["missing"], values["strange"], values["chain"]) == (40, 0, 0, 0)


def test_a_record_that_never_reaches_the_arrays_is_missed(deduped, monkeypatch):
    write = token_dataset.write_token_dataset
    monkeypatch.setattr(token_dataset, "write", lambda folder, documents, *rest: write(folder, list(documents)[1:], *rest))
    audit = deduped.run("tokenize")
    first = deduped.records("deduped")[0]
    (table,) = (table for table in audit.tables if table.name == "missing")
    assert (audit.figures["missing"].value, table.rows) == (1, [[first.id, first.source]])
    assert audit.figures["chain"].value > 0


def test_a_step_that_loses_bytes_unbalances_the_chain(deduped):
    path = deduped.layout.audit("c", "dedupe")
    metrics = json.loads(path.read_text())
    metrics["figures"]["bytes.unique"] -= 7
    path.write_text(json.dumps(metrics))
    audit = deduped.run("tokenize")
    (table,) = (table for table in audit.tables if table.name == "balance")
    assert [row[-1] for row in table.rows] == [0, 0, 7, -7, 0]
    assert audit.figures["chain"].value == 14


def test_the_corpus_is_broken_down_by_the_facts_of_its_records(project):
    licences = {seed: {"licence": "PSF" if seed < 10 else "MIT", "domain": "words"} for seed in range(40)}
    project.scraped([record(seed).with_metadata(**licences[seed]) for seed in range(40)])
    for name in ("filter", "dedupe"):
        project.run(name)
    audit = project.run("tokenize")
    tables = {table.name: table for table in audit.tables}
    assert [row[:2] for row in tables["by_licence"].rows] == [["MIT", 30], ["PSF", 10]]
    assert sum(row[2] for row in tables["by_licence"].rows) == sum(len(record(seed).content) for seed in range(40))
    assert [row[0] for row in tables["by_domain"].rows] == ["words"]
    assert tables["by_domain"].rows[0][-1] == 1.0
    assert "by_language" not in tables


def test_probes_are_looked_for_on_both_sides(deduped):
    from_training = shards_of(deduped)["train"][:25].decode()
    prompts = {"vocabulary": 512, "sample_bytes": 10**6, "character_coverage": 0.9995, "held_out": 0.2}
    deduped.params(tokenize=prompts | {"probes": [from_training, "of no record", "e"]})
    audit = deduped.run("tokenize")
    values = deduped.values("tokenize")
    assert (values["probes"], values["probes.train"], values["probes.val"]) == (3, 2, 1)
    (table,) = (table for table in audit.tables if table.name == "probes")
    both = [values["documents.train"], values["documents.val"]]
    assert table.rows == [[repr(from_training), 1, 0], ["'of no record'", 0, 0], ["'e'", *both]]


def shards_of(project) -> dict[str, bytes]:
    """The body of the first record of each side."""
    return {token_dataset.assign_split(item.facts["cluster"], 0.2): item.body for item in reversed(project.records("deduped"))}


def test_a_corpus_that_changed_between_two_stages_breaks_the_chain(deduped):
    deduped.scraped([record(seed) for seed in range(41)])
    with pytest.raises(
        SystemExit, match=r"scrape says records = 41, but filter says records\.in = 40; run `dvc repro` from scrape on"
    ):
        deduped.run("tokenize")


def test_records_that_dedupe_never_saw_break_the_chain(deduped):
    deduped.put("deduped", deduped.records("deduped")[1:])
    with pytest.raises(SystemExit, match=r"dedupe says records\.unique = 40, but tokenize says records in = 39"):
        deduped.run("tokenize")


def test_a_missing_audit_is_an_error_that_names_it(deduped):
    deduped.layout.audit("c", "filter").unlink()
    with pytest.raises(SystemExit, match=r"reports/audits/c/filter\.json: not there"):
        deduped.run("tokenize")


def test_records_without_a_cluster_are_refused(deduped):
    deduped.put("deduped", [record(seed) for seed in range(40)])
    with pytest.raises(SystemExit, match="no duplicate cluster; run dedupe again"):
        deduped.run("tokenize")


def test_holding_out_every_record_is_an_error(deduped):
    tokenize = {"vocabulary": 512, "sample_bytes": 1000, "character_coverage": 1.0, "held_out": 0.9999}
    deduped.params(tokenize=tokenize)
    with pytest.raises(SystemExit, match=r"corpora\.c\.tokenize: held_out 0\.9999 leaves no record of 40 to train on; lower it"):
        deduped.run("tokenize")


def test_a_second_run_leaves_the_same_files(deduped):
    def contents() -> dict[str, bytes]:
        folder = deduped.layout.corpus("c", "tokens")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    deduped.run("tokenize")
    first = contents()
    deduped.run("tokenize")
    assert contents() == first
    assert set(first) == {"train.bin", "val.bin", "index.parquet", "manifest.json", "codec/tokenizer.model", "codec/codec.json"}


def test_strings_go_through_all_stages_with_nothing_held_out(project):
    strings = ["ABCDE", "FGHIJ", "ABCDE", "12345"]
    project.params(domain="strings", scrape={"strings": strings}, filter={}, dedupe={}, tokenize={"held_out": 0, "end": False})
    for name in ("scrape", "filter", "dedupe", "tokenize"):
        project.run(name)
    values = project.values("tokenize")
    assert (values["vocabulary"], values["tokens.train"], values["tokens.val"]) == (16, 15, 0)
    assert project.values("dedupe")["twins.exact"] == 1
    assert "oracle.recall" not in project.values("dedupe")
