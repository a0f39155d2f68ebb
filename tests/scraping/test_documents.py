"""Test that folders give the text of notebooks, documents and compressed files, and leave out what nobody wrote to be read."""

import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import pytest
from pdf_files import pdf_of_lines

from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.scraping.extraction.text_decoder import TEXT_DECODER
from provenlm.scraping.sources.folder import FolderSource
from provenlm.scraping.sources.local import fetch_sources


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fetch(contents: dict[str, bytes | str], **settings: object) -> dict[str, FetchResult]:
    """Write files below `f` and read them as a source."""
    for name, content in contents.items():
        path = Path("f") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = FolderSource("folder", "f", **settings)  # type: ignore[arg-type]
    results = fetch_sources([source], TEXT_DECODER, Path("state"), ProgressReporter("scrape", "items", None), max_bytes=100_000)
    return {result.url.removeprefix("f/"): result for result in results}


def fetch_record(name: str, content: bytes | str) -> Record:
    record = fetch({name: content})[name].record
    assert record is not None
    return record


def cell(kind: str, source: object, **more: object) -> dict[str, object]:
    return {"cell_type": kind, "source": source, "metadata": {}, **more}


NOTEBOOK_TEXT = "# Tides\n\nHigh water is at *noon*.\n\n```python\nx = 1\nx + 1\n```\n\nend\n"
PICTURE = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo" * 99}}
CELLS = [
    cell("markdown", ["# Tides\n", "\n", "High water is at *noon*."], attachments={"a.png": {"image/png": "iVBOR"}}),
    cell("code", ["x = 1\n", "x + 1"], outputs=[PICTURE]),
    cell("code", ""),
    cell("raw", "end"),
]
OLD_CELLS = [
    {"cell_type": "heading", "level": 1, "source": "Tides"},
    CELLS[0] | {"source": "High water is at *noon*."},
    {"cell_type": "code", "input": "x = 1\nx + 1", "outputs": [PICTURE]},
    CELLS[3],
]


@pytest.mark.parametrize("notebook", [{"nbformat": 4, "cells": CELLS}, {"nbformat": 3, "worksheets": [{"cells": OLD_CELLS}]}])
def test_a_notebook_gives_its_cells_without_outputs(notebook: dict[str, object]) -> None:
    record = fetch_record("a.ipynb", json.dumps(notebook))
    assert (record.text, record.media_type) == (NOTEBOOK_TEXT, "text/markdown")


def test_what_is_no_notebook_is_unreadable() -> None:
    results = fetch({"a.ipynb": "[1]", "b.ipynb": '{"cells": [1]}', "c.ipynb": "half {", "d.md": "x"})
    assert [result.reason for result in results.values()] == ["unreadable", "unreadable", "unreadable", ""]


@pytest.mark.parametrize(
    ("content", "text", "metadata"),
    [
        (
            "---\ntitle: The quay\ndate: 2026-05-01\nlicence: CC0-1.0\ntags: [a, b]\nlayout: post\n---\n\n# Quay\n",
            "# Quay\n",
            {"title": "The quay", "date": "2026-05-01", "license": "CC0-1.0", "tags": ["a", "b"]},
        ),
        ('+++\r\ntitle = "T"\r\n+++\r\ntext', "text", {"title": "T"}),
        ('---\ntitle: "\\uD83D"\n---\nx', "x", {"title": "?"}),
        ("---\n- a list\n---\nx", "---\n- a list\n---\nx", {}),
        ("---\na: [\n---\nx", "---\na: [\n---\nx", {}),
        ("---\n\nA rule above, and one below.\n\n---\n\nx", "---\n\nA rule above, and one below.\n\n---\n\nx", {}),
        ("text\n---\ntitle: x\n---\n", "text\n---\ntitle: x\n---\n", {}),
    ],
)
def test_front_matter_becomes_metadata(content: str, text: str, metadata: dict[str, object]) -> None:
    record = fetch_record("a.md", content)
    assert (record.text, record.metadata) == (text, {"site": "f", **metadata})


def test_compressed_files_are_read_and_damaged_ones_named() -> None:
    results = fetch({
        "a.txt.gz": gzip.compress(b"text"), "b.py.GZ": gzip.compress(b"x = 1\n"), "c.txt.gz": gzip.compress(b"t" * 99)[:-9],
        "d.txt.gz": gzip.compress(bytes(9_000_000)), "e.txt.zst": b"plain after all",
    })  # fmt: skip
    assert {name: result.record.media_type if result.record else result.reason for name, result in results.items()} == {
        "a.txt.gz": "text/plain", "b.py.GZ": "text/x-python", "c.txt.gz": "damaged", "d.txt.gz": "too-large", "e.txt.zst": "text/plain",
    }  # fmt: skip


def test_hidden_installed_and_minified_files_are_left_out_and_counted() -> None:
    names = [".env", ".git/config", "a/.cache/x.md", "a/node_modules/p/index.js", "a/app.min.js", "kept.md", "a/min.js"]
    assert {name for name, result in fetch(dict.fromkeys(names, "x")).items() if result.reason == "ignored"} == set(names[:5])
    assert {name for name, result in fetch({}, ignore=()).items() if result.record} == set(names)


def test_rows_in_a_folder_are_refused_by_name() -> None:
    results = fetch({"a.md": "x", "rows.jsonl": '{"text": "x"}\n', "more.ndjson.gz": gzip.compress(b"{}"), "t.parquet": b"PAR1"})
    assert {result.reason for name, result in results.items() if name != "a.md"} == {"rows-need-jsonl-source"}


def test_a_file_name_that_is_no_utf_8_is_escaped() -> None:
    Path("f").mkdir()
    (Path("f") / os.fsdecode(b"caf\xe9.txt")).write_text("text", encoding="utf-8")
    record = fetch({"good.txt": "good"})["caf\\xe9.txt"].record
    assert record is not None and (record.source, record.text) == ("f/caf\\xe9.txt", "text")


def zip_of(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
DOCX_BODY = (
    '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>The quay</w:t></w:r></w:p>'
    '<w:p><w:r><w:t xml:space="preserve">Boats come </w:t></w:r><w:r><w:t>at night.</w:t></w:r></w:p>'
    "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Gull</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>12 m</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
)


def docx(body: str) -> bytes:
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    dc = "http://purl.org/dc/elements/1.1/"
    return zip_of({
        "[Content_Types].xml": f'<Types xmlns="{types}"><Override PartName="/word/document.xml" ContentType="{main}"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r" Type="{office}" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
        "docProps/core.xml": f'<p xmlns:dc="{dc}"><dc:title>A letter</dc:title></p>',
    })  # fmt: skip


def test_a_docx_gives_its_headings_paragraphs_and_tables() -> None:
    pytest.importorskip("mammoth")
    record = fetch_record("a.docx", docx(DOCX_BODY))
    assert [line.strip() for line in record.text.splitlines() if line.strip()][:2] == ["The quay", "Boats come at night."]
    assert "Gull" in record.text.splitlines()[-1] and "12 m" in record.text.splitlines()[-1]
    assert record.metadata["title"] == "A letter"
    assert fetch({"b.docx": docx(DOCX_BODY)[:300]})["b.docx"].reason == "document-damaged"


def test_an_epub_gives_its_chapters_in_reading_order() -> None:
    pytest.importorskip("resiliparse")
    book = zip_of({
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        "<dc:title>Two walks</dc:title><dc:language>en</dc:language></metadata><manifest>"
        '<item id="two" href="b%202.xhtml" media-type="application/xhtml+xml"/><item id="one" href="a.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="toc" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/><item id="png" href="p.png" media-type="image/png"/>'
        '</manifest><spine><itemref idref="toc"/><itemref idref="one"/><itemref idref="two"/></spine></package>',
        "OEBPS/nav.xhtml": "<html><body>Contents</body></html>",
        "OEBPS/a.xhtml": "<html><body><h1>One</h1><p>Down to the sea.</p></body></html>",
        "OEBPS/b 2.xhtml": "<html><body><h1>Two</h1><p>Up the hill.</p></body></html>",
    })  # fmt: skip
    record = fetch_record("a.epub", book)
    assert record.text.split() == ["One", "Down", "to", "the", "sea.", "Two", "Up", "the", "hill."]
    assert (record.metadata["title"], record.metadata["lang"]) == ("Two walks", "en")
    assert fetch({"b.epub": zip_of({"a": "b"})})["b.epub"].reason == "document-damaged"


def test_a_word_divided_between_two_lines_of_a_pdf_is_joined() -> None:
    pytest.importorskip("pypdfium2")
    record = fetch_record("a.pdf", pdf_of_lines("Boats come in during the harbour of-", "fice hours, North-", "Sea pilots too"))
    assert record.text.split() == [
        "Boats",
        "come",
        "in",
        "during",
        "the",
        "harbour",
        "office",
        "hours,",
        "North-Sea",
        "pilots",
        "too",
    ]
