"""Test that sources hand over bytes, media type and metadata, and that the domain's decoder decides what they mean."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provenlm.core.config import parse_config
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.scraping.sources.folder import FolderSource
from provenlm.scraping.sources.git import GitSource
from provenlm.scraping.sources.items import DropReason, ItemDecoder, SourceItem
from provenlm.scraping.sources.local import LocalSource, fetch_sources, require_record
from provenlm.scraping.sources.tables import TableSource

MIDI = b"MThd\0\0\0\6\0\1\0\1\1\xe0" + bytes(range(256))  # binary content with zero bytes that is not UTF-8
PUZZLE = {"train": [{"input": [[0, 1]], "output": [[1, 0]]}]}


def decode(item: SourceItem) -> Record | DropReason:
    """Decode as a domain of scores and puzzles would: two media types, one of them with a rule of its own."""
    if item.media_type == "audio/midi":
        if not item.content.startswith(b"MThd"):
            return DropReason("no-midi-header", failed=True)
        return Record.from_content(item.content, item.media_type, item.url, **item.metadata)
    pairs = json.loads(item.content)["train"]
    return Record.from_content(item.content, item.media_type, item.url, **{**item.metadata, "num_pairs": len(pairs)})


DECODER = ItemDecoder(decode, {".mid": "audio/midi", ".json": "application/json"})


def fetch(*sources: LocalSource, decoder: ItemDecoder = DECODER) -> dict[str, FetchResult]:
    results = fetch_sources(sources, decoder, Path("state"), ProgressReporter("scrape", "items", None), max_bytes=10_000)
    return {result.url: result for result in results}


def outcomes(results: dict[str, FetchResult]) -> dict[str, tuple[str, str]]:
    return {url: (result.state, result.reason) for url, result in results.items()}


@pytest.fixture(autouse=True)
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores").mkdir()
    for name, content in (
        ("a.mid", MIDI),
        ("B.MID", MIDI + b"\0"),
        ("broken.mid", b"RIFF"),
        ("puzzle.json", json.dumps(PUZZLE).encode()),
        ("half.json", b'{"train": ['),
        ("notes.txt", b"text"),
        ("big.mid", MIDI * 100),
        ("lfs.mid", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ):
        (tmp_path / "scores" / name).write_bytes(content)


EXPECTED = {
    "a.mid": ("record", ""),
    "B.MID": ("record", ""),
    "broken.mid": ("failed", "no-midi-header"),
    "puzzle.json": ("record", ""),
    "half.json": ("failed", "unreadable"),
    "notes.txt": ("skipped", "media-type"),
    "big.mid": ("skipped", "too-large"),
    "lfs.mid": ("skipped", "lfs-pointer"),
}


def test_a_folder_hands_binary_files_to_the_decoder_unchanged() -> None:
    results = fetch(FolderSource("folder", "scores", license="CC0-1.0"))
    assert outcomes(results) == {f"scores/{name}": outcome for name, outcome in EXPECTED.items()}
    record = results["scores/a.mid"].record
    assert record is not None
    assert (record.content, record.media_type, record.source) == (MIDI, "audio/midi", "scores/a.mid")
    assert record.metadata == {"site": "scores", "license": "CC0-1.0"}
    assert results["scores/a.mid"].received_bytes == len(MIDI)
    puzzle = results["scores/puzzle.json"].record
    assert puzzle is not None
    assert (json.loads(puzzle.content), puzzle.metadata["num_pairs"]) == (PUZZLE, 1)


def test_a_git_commit_hands_binary_files_to_the_decoder_unchanged() -> None:
    options = ["-C", "scores", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *options, *arguments], check=True)
    results = fetch(GitSource("git", "scores"))
    assert outcomes(results) == {f"scores#{name}": outcome for name, outcome in EXPECTED.items()}
    record = results["scores#a.mid"].record
    assert record is not None
    assert (record.content, record.media_type, set(record.metadata)) == (MIDI, "audio/midi", {"site", "blob"})


def test_a_table_hands_over_bytes_objects_and_text_with_their_media_type() -> None:
    received: list[tuple[str, bytes]] = []

    def accept(item: SourceItem) -> Record:
        received.append((item.media_type, item.content))
        return Record.from_content(item.content, item.media_type, item.url, **item.metadata)

    pq.write_table(pa.table({"midi": [MIDI, None], "title": ["A", "B"]}), "rows.parquet")
    Path("rows.jsonl").write_text(json.dumps({"puzzle": PUZZLE, "note": "é", "id": "p1"}) + "\n", encoding="utf-8")
    results = fetch(
        TableSource("parquet", ("rows.parquet",), content="midi", metadata=("title",)),
        TableSource("jsonl", ("rows.jsonl",), content="puzzle", source="id"),
        TableSource("jsonl", ("rows.jsonl",), content="note"),
        decoder=ItemDecoder(accept, {}),
    )
    assert received == [
        ("application/octet-stream", MIDI),
        ("application/json", json.dumps(PUZZLE).encode()),
        ("text/plain; charset=utf-8", "é".encode()),
    ]
    assert outcomes(results) == {
        "rows.parquet:1": ("record", ""), "rows.parquet:2": ("skipped", "no-content"), "p1": ("record", ""),
        "rows.jsonl:1": ("record", ""),
    }  # fmt: skip
    record = results["rows.parquet:1"].record
    assert record is not None
    assert record.metadata == {"site": "rows.parquet", "title": "A"}


def test_a_table_without_a_content_column_hands_over_whole_rows_as_json() -> None:
    Path("rows.jsonl").write_text(json.dumps(PUZZLE) + "\n" + json.dumps({"train": []}) + "\n", encoding="utf-8")
    results = fetch(TableSource("jsonl", ("rows.jsonl",), content=None))
    assert [
        (result.record.metadata["num_pairs"], json.loads(result.record.content)) for result in results.values() if result.record
    ] == [
        (1, PUZZLE),
        (0, {"train": []}),
    ]


def test_the_same_url_of_a_later_source_is_skipped_as_repeated() -> None:
    results = fetch(FolderSource("folder", "scores", ("a.mid",)), FolderSource("folder", "scores", ("a.mid",)))
    assert (results["scores/a.mid"].state, results["scores/a.mid (2)"].reason) == ("record", "repeated")


def test_an_error_names_the_source_by_its_position() -> None:
    with pytest.raises(ConfigError, match=r"^sources\[1\]: path must be an existing folder, got 'nowhere'$"):
        fetch(FolderSource("folder", "scores"), FolderSource("folder", "nowhere"))


def test_an_error_of_a_crawl_is_completed_with_the_most_frequent_reason() -> None:
    def crawl_pages(state: Any, reason: str, record: Record | None) -> Iterator[FetchResult]:
        yield FetchResult("http://h/1", state, reason, 200, 0, 1, 0.0, record)
        raise DataError("start_urls: no page of http://h/ became a record")

    message = (
        r"^start_urls: no page of http://h/ became a record: 1 of 1 skipped robots, first http://h/1; robots.txt forbids the pages$"
    )
    with pytest.raises(DataError, match=message):
        list(require_record(crawl_pages("skipped", "robots", None)))
    with pytest.raises(DataError, match=r"became a record$"):
        list(require_record(crawl_pages("record", "", Record.from_content(b"x", "text/plain", "http://h/1"))))
    with pytest.raises(DataError, match=r"^must yield at least one record, got no file, row or response$"):
        list(require_record([]))


def test_the_example_of_a_domain_in_the_documentation_runs() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/how-to/sources.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "scores"}
    exec(code, namespace)
    spec = namespace["SPEC"]
    scrape_config = parse_config(spec.config_type, {"sources": [{"kind": "folder", "path": "scores"}]}, "params.yaml")
    results = list(spec.fetch(scrape_config, Path("state"), ProgressReporter("scrape", "items", None)))
    assert [result.url for result in results if result.record] == ["scores/B.MID", "scores/a.mid", "scores/big.mid"]
    assert {result.reason for result in results if not result.record} == {"media-type", "no-midi-header", "lfs-pointer"}
