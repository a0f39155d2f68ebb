"""Decode files and table rows into text records."""

import io
from dataclasses import replace

from provenlm.core.records import Record
from provenlm.scraping.extraction import charset, licenses
from provenlm.scraping.extraction.extractor import ExtractedDocument
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR
from provenlm.scraping.sources import tables
from provenlm.scraping.sources.items import DropReason, ItemDecoder, SourceItem

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
    ".h": "c", ".hpp": "c++", ".hs": "haskell", ".ini": "ini", ".ipynb": "json", ".java": "java", ".jl": "julia", ".js": "javascript",
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
}
FAILURES = ("unreadable", "time-limit", "pdf-damaged")


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
    return Record.from_content(document.content, document.media_type, item.url, **{**item.metadata, **document.metadata})


def _extract(item: SourceItem) -> ExtractedDocument | str:
    """Extract the document of an item, or return the reason why it has none."""
    content, media_type = item.content, item.media_type
    if media_type == tables.TEXT:
        return ExtractedDocument(content, "text/plain", {}, ())
    if media_type in (tables.JSON, tables.BINARY):
        return "no-text"
    if media_type == "application/pdf":
        return _extract_pdf(content)
    has_byte_order_mark = any(content.startswith(mark) for mark, _ in charset.BYTE_ORDER_MARKS)
    if not has_byte_order_mark and b"\0" in content[:BINARY_PROBE_BYTES]:
        return "binary"
    if media_type == "text/html":
        return TEXT_EXTRACTOR.extract(content, media_type, "http://file.invalid/")
    text, _ = charset.decode_body(content, "")
    license_id = licenses.spdx_license(text)
    return ExtractedDocument(text.encode("utf-8", "replace"), media_type, {"license": license_id} if license_id else {}, ())


def _extract_pdf(content: bytes) -> ExtractedDocument | str:
    """Extract the text of a PDF, or return the reason why that is impossible."""
    try:
        from pypdf import PdfReader
    except ImportError:
        return "pdf-needs-extra"  # pip install -e .[pdf]
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted:
            return "pdf-encrypted"
        text = "\n\n".join(page.extract_text().strip() for page in reader.pages)
        title = str((reader.metadata and reader.metadata.title) or "").strip()
    except Exception:  # pypdf raises many kinds of exceptions for damaged files
        return "pdf-damaged"
    return ExtractedDocument(text.encode("utf-8", "replace"), "text/plain", {"title": title} if title else {}, ())


TEXT_DECODER = ItemDecoder(decode_text, MEDIA_TYPES, other_media_type="text/plain")
