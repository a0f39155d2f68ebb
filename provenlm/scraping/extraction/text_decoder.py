"""Decode files and table rows into text records."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from provenlm.core.records import Record
from provenlm.scraping.extraction import charset, documents, licenses
from provenlm.scraping.extraction.extractor import ExtractedDocument
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR
from provenlm.scraping.sources import tables
from provenlm.scraping.sources.items import DropReason, ItemDecoder, SourceItem

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
EPUB, NOTEBOOK = "application/epub+zip", "application/x-ipynb+json"
ROWS = "application/jsonl"  # a table, which needs a source of its own
BINARY_PROBE_BYTES = 8192  # a zero byte among these marks a binary file, as in git
HTML_SUFFIXES = {".html", ".htm", ".xhtml"}
PROSE_MEDIA_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
    ".adoc": "text/x-asciidoc",
    ".tex": "text/x-tex",
}
CODE_LANGUAGES = {
    ".bash": "sh", ".c": "c", ".cc": "c++", ".cfg": "ini", ".cpp": "c++", ".cs": "csharp", ".css": "css", ".cu": "cuda", ".go": "go",
    ".h": "c", ".hpp": "c++", ".hs": "haskell", ".ini": "ini", ".java": "java", ".jl": "julia", ".js": "javascript",
    ".json": "json", ".jsx": "javascript", ".kt": "kotlin", ".lua": "lua", ".m": "objective-c", ".ml": "ocaml", ".php": "php",
    ".pl": "perl", ".proto": "protobuf", ".ps1": "powershell", ".py": "python", ".pyi": "python", ".pyx": "cython", ".r": "r",
    ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".sh": "sh", ".sql": "sql", ".swift": "swift", ".toml": "toml",
    ".ts": "typescript", ".tsx": "typescript", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".zig": "zig",
}  # fmt: skip
MEDIA_TYPES = {
    **dict.fromkeys(HTML_SUFFIXES, "text/html"),
    **PROSE_MEDIA_TYPES,
    **{suffix: f"text/x-{language}" for suffix, language in CODE_LANGUAGES.items()},
    ".pdf": "application/pdf",
    ".docx": DOCX,
    ".epub": EPUB,
    ".ipynb": NOTEBOOK,
    **dict.fromkeys((".jsonl", ".ndjson", ".parquet"), ROWS),
}
FRONT_MATTER_TYPES = ("text/markdown", "text/x-asciidoc")
DOCUMENT_READERS = {"application/pdf": documents.read_pdf, DOCX: documents.read_docx, EPUB: documents.read_epub}
FAILURES = ("unreadable", "time-limit", "pdf-damaged", "document-damaged")


def decode_text(item: SourceItem) -> Record | DropReason:
    """Decode the text of a file or a table row.

    Code has the media type `text/x-<language>`. The reasons to drop an item are binary, empty, no-text, pdf-damaged …
    """
    document = _extract(item)
    if isinstance(document, ExtractedDocument) and not document.reason and not document.content.strip():
        document = replace(document, reason="empty")
    if isinstance(document, str) or document.reason:
        reason = document if isinstance(document, str) else document.reason
        return DropReason(reason, failed=reason in FAILURES)
    return Record.from_content(document.content, document.media_type, item.url, **_merge_metadata(item, document))


def _merge_metadata(item: SourceItem, document: ExtractedDocument) -> Mapping[str, Any]:
    """Prefer what a file says of itself to what its folder says, and the columns of a row to what its content says."""
    if item.media_type in tables.FORMAT_MEDIA_TYPES.values():
        return {**document.metadata, **item.metadata}
    return {**item.metadata, **document.metadata}


def _extract(item: SourceItem) -> ExtractedDocument | str:
    """Extract the document of an item, or return the reason why it has none."""
    content = item.content
    media_type, _, parameters = item.media_type.partition("; ")
    if item.media_type == tables.BINARY and _is_utf8(content):
        media_type, parameters = "text/plain", "charset=utf-8"
    if media_type == ROWS:
        return "rows-need-jsonl-source"
    if media_type in (tables.JSON, tables.BINARY):
        return "no-text"
    if media_type in DOCUMENT_READERS:
        return DOCUMENT_READERS[media_type](content)
    if parameters and media_type == "text/plain":
        return ExtractedDocument(content, media_type, {}, ())
    has_byte_order_mark = any(content.startswith(mark) for mark, _ in charset.BYTE_ORDER_MARKS)
    if not has_byte_order_mark and b"\0" in content[:BINARY_PROBE_BYTES]:
        return "binary"
    if media_type == "text/html":
        return TEXT_EXTRACTOR.extract(content, item.media_type, "http://file.invalid/")
    text, _ = charset.decode_body(content, item.media_type if parameters else "")
    if media_type == NOTEBOOK:
        return documents.read_notebook(text)
    license_id = licenses.spdx_license(text)
    text, metadata = documents.split_front_matter(text) if media_type in FRONT_MATTER_TYPES else (text, {})
    metadata = {**({"license": license_id} if license_id else {}), **metadata}
    return ExtractedDocument(text.encode("utf-8", "replace"), media_type, metadata, ())


def _is_utf8(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


TEXT_DECODER = ItemDecoder(decode_text, MEDIA_TYPES, other_media_type="text/plain")
