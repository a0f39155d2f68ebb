"""Extract documents from files by their name, and select files by glob patterns."""

import io
import re
from collections.abc import Sequence
from functools import cache
from pathlib import PurePosixPath

from provenlm.scraping.extraction import charset, licenses
from provenlm.scraping.extraction.reader import TEXT_EXTRACTOR, ExtractedDocument

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
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def extract_file(name: str, body: bytes) -> ExtractedDocument | str:
    """Extract the document of a file, or return the reason why it has none.

    The reasons are binary, lfs-pointer, pdf-damaged … The media type follows from the suffix; code is `text/x-<language>`.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".pdf":
        return _pdf(body)
    if body.startswith(LFS_POINTER):
        return "lfs-pointer"
    has_byte_order_mark = any(body.startswith(mark) for mark, _ in charset.BYTE_ORDER_MARKS)
    if not has_byte_order_mark and b"\0" in body[:BINARY_PROBE_BYTES]:
        return "binary"
    if suffix in HTML_SUFFIXES:
        return TEXT_EXTRACTOR.extract(body, "text/html", "http://file.invalid/")
    text, _ = charset.decode_body(body, "")
    media_type = PROSE_MEDIA_TYPES.get(suffix) or (f"text/x-{CODE_LANGUAGES[suffix]}" if suffix in CODE_LANGUAGES else "text/plain")
    license_id = licenses.spdx_license(text)
    return ExtractedDocument(text.encode("utf-8", "replace"), media_type, {"license": license_id} if license_id else {}, ())


def _pdf(body: bytes) -> ExtractedDocument | str:
    """Extract the text of a PDF, or return the reason why that is impossible."""
    try:
        from pypdf import PdfReader
    except ImportError:
        return "pdf-needs-extra"  # pip install -e .[pdf]
    try:
        reader = PdfReader(io.BytesIO(body))
        if reader.is_encrypted:
            return "pdf-encrypted"
        text = "\n\n".join(page.extract_text().strip() for page in reader.pages)
        title = str((reader.metadata and reader.metadata.title) or "").strip()
    except Exception:  # pypdf raises many kinds of exceptions for damaged files
        return "pdf-damaged"
    return ExtractedDocument(text.encode("utf-8", "replace"), "text/plain", {"title": title} if title else {}, ())


@cache
def compile_glob(glob: str) -> re.Pattern[str]:
    """Compile a path pattern.

    `*` and `?` do not cross folders, `**/` matches any number of folders, also none.
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    glob_regexes = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(glob_regexes.get(part, re.escape(part)) for part in parts))


def skip_reason(path: str, include: Sequence[str], exclude: Sequence[str]) -> str:
    """Return why a source skips the file at `path`; "" if it does not.

    An empty `include` matches every file.
    """
    if include and not any(compile_glob(glob).fullmatch(path) for glob in include):
        return "not-included"
    return "excluded" if any(compile_glob(glob).fullmatch(path) for glob in exclude) else ""
