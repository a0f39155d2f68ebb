"""Test `provenlm export-corpus` with Hugging Face datasets: the same rows, splits and files, or one line that says why not."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from huggingface_hub import DatasetCard

from provenlm.cli import export_corpus, main
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import Record, write_records
from provenlm.data.token_dataset import TokenizedDocument, assign_split, write_token_dataset
from provenlm.scraping.sources.tables import TableSource, read_table

VAL_FRACTION = 0.3
TEXTS = [f"Line {number}\r\n\tof « tides »\u2028{'x' * number}\n" for number in range(30)]


def text_records():
    """Return 30 records, of which only the first has no license, language and title."""
    facts = {"license": "MIT", "language": "nb", "title": "Tides", "score": 0.5}
    records = [Record.from_content(text.encode(), "text/plain", f"s/{i}", **(facts if i else {})) for i, text in enumerate(TEXTS)]
    return [record.with_metadata(cluster=record.id) for record in records]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a project whose corpus `c` has records, tokens and one audit."""
    paths = ProjectPaths(tmp_path)
    monkeypatch.chdir(tmp_path)
    corpus = {"domain": "text", "scrape": {}, "filter": {}, "dedupe": {}, "tokenize": {}}
    paths.params_yaml.write_text(json.dumps({"corpora": {"c": corpus}, "recipes": {}, "reports": {}}))
    write_corpus(paths, text_records())
    return paths


def write_corpus(paths, records):
    for step in ("deduped", "tokens"):
        shutil.rmtree(paths.corpus_dir("c", step), ignore_errors=True)
        paths.corpus_dir("c", step).mkdir(parents=True)
    write_records(records, paths.corpus_dir("c", "deduped"))
    documents = [
        TokenizedDocument(item.id, item.metadata["cluster"], len(item.content), np.zeros(1, np.uint32)) for item in records
    ]
    write_token_dataset(paths.corpus_dir("c", "tokens"), documents, 4, {}, VAL_FRACTION)


def export(*arguments):
    return main.main(["export-corpus", "c", *arguments])


def expected_ids(split):
    return [record.id for record in text_records() if assign_split(record.id, VAL_FRACTION) == split]


def test_datasets_reads_every_text_in_the_splits_of_the_tokens(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets  # after HF_HOME is set: it creates its folders on import

    assert export("out") == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: split["id"] for name, split in loaded.items()} == {
        "train": expected_ids("train"),
        "validation": expected_ids("val"),
    }
    rows = {row["id"]: row for split in loaded.values() for row in split}
    assert [rows[record.id]["text"] for record in text_records()] == TEXTS
    assert rows[text_records()[1].id] == {
        "text": TEXTS[1],
        "id": text_records()[1].id,
        "source": "s/1",
        "license": "MIT",
        "language": "nb",
        "score": 0.5,
        "media_type": "text/plain",
        "metadata": json.dumps({"cluster": text_records()[1].id, "title": "Tides"}),
    }
    assert [rows[text_records()[0].id][name] for name in ("license", "language", "score")] == [None, None, None]


def test_the_export_is_a_source_of_another_corpus(project):
    export("out")
    items = list(read_table(TableSource("parquet", ("out/data/*.parquet",), "text", "source", ("license",)), 10**6))
    assert sorted(item.content.decode() for item in items) == sorted(TEXTS)
    assert {item.metadata.get("license") for item in items if item.url == "s/1"} == {"MIT"}


def test_jsonl_holds_the_same_rows(project):
    export("out", "--format", "jsonl.zst")
    with pa.input_stream("out/data/train-00000-of-00001.jsonl.zst", compression="zstd") as stream:
        rows = [json.loads(line) for line in stream.read().decode().split("\n") if line]
    assert [row["id"] for row in rows] == expected_ids("train")
    assert {row["text"] for row in rows} <= set(TEXTS)


def test_a_large_split_has_several_files_named_with_their_number(project, tmp_path):
    tally = export_corpus.ExportTally()
    export_corpus.write_data(project, "c", tmp_path / "shards", "parquet", tally, shard_bytes=400)
    names = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert tally.files["train"] > 2 and len(names) == tally.files.total()
    assert f"train-00001-of-{tally.files['train']:05}.parquet" in names
    ids = [row for name in names if name.startswith("train") for row in pa.parquet.read_table(tmp_path / "shards" / name)["id"]]
    assert [str(row) for row in ids] == expected_ids("train")


def test_the_card_names_files_languages_and_license_for_the_hub(project):
    export("out")
    card = DatasetCard((project.root / "out" / "README.md").read_text()).data.to_dict()
    assert (card["license"], card["language"]) == ("other", ["nb"])
    assert card["configs"][0]["data_files"][1] == {"split": "validation", "path": "data/validation-*"}
    assert [split["num_examples"] for split in card["dataset_info"]["splits"]] == [
        len(expected_ids("train")),
        len(expected_ids("val")),
    ]


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [({"MIT"}, "mit"), ({"MIT", "PSF"}, "other"), ({"my terms"}, "other"), ({None}, "unknown"), (set(), "unknown")],
)
def test_the_license_of_a_card_is_one_that_the_hub_knows(licenses, expected):
    assert export_corpus.hub_license(licenses) == expected


def test_binary_content_is_exported_as_bytes_and_not_as_jsonl(project, capsys):
    content = b"MThd\x00\xff"
    record = Record.from_content(content, "audio/midi", "s").with_metadata(cluster="c0")
    write_corpus(project, [record])
    assert export("bad", "--format", "jsonl.zst") == 1
    assert "--format: must be parquet for content of type audio/midi, got jsonl.zst" in capsys.readouterr().err
    assert export("out") == 0 and not (project.root / "bad").exists()
    (path,) = (project.root / "out" / "data").iterdir()
    assert pa.parquet.read_table(path)["content"].to_pylist() == [content]


def test_bytes_that_are_not_utf_8_are_replaced_and_counted(project, capsys):
    write_corpus(project, [Record.from_content(b"caf\xe9", "text/plain", "s").with_metadata(cluster="c0")])
    export("out")
    assert "; 1 with bytes that are not UTF-8, replaced by U+FFFD" in capsys.readouterr().out


def test_a_folder_that_holds_anything_is_refused_and_an_empty_one_filled(project, capsys):
    (project.root / "out").mkdir()
    assert export("out") == 0
    before = (project.root / "out" / "README.md").read_bytes()
    assert export("out") == 1
    assert "out: must not exist or must be an empty folder" in capsys.readouterr().err
    assert (project.root / "out" / "README.md").read_bytes() == before


@pytest.mark.parametrize("change", ["one record more", "one record fewer"])
def test_tokens_of_other_records_are_refused_and_leave_no_folder(project, capsys, change):
    records = text_records()
    source = project.corpus_dir("c", "deduped")
    shutil.rmtree(source)
    write_records(records[:-1] if change == "one record fewer" else [*records, records[0]], source)
    assert export("out") == 1
    assert "index.parquet" in (error := capsys.readouterr().err) and "run tokenize again" in error
    assert [path.name for path in project.root.iterdir() if "out" in path.name] == []


def test_a_corpus_without_tokens_is_refused(project, capsys):
    shutil.rmtree(project.corpus_dir("c", "tokens"))
    assert export("out") == 1
    message = "data/c/tokens/index.parquet: does not exist; `dvc repro tokenize@c` creates it, `dvc pull` downloads it"
    assert message in capsys.readouterr().err
