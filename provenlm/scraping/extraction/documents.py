"""Read the text of notebooks, front matter, DOCX, EPUB and PDF files."""

import io
import json
import posixpath
import re
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from lxml import etree
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from provenlm.scraping.extraction.extractor import ExtractedDocument

FRONT_MATTER = re.compile(r"\ufeff?(---|\+\+\+)[ \t]*\r?\n(.*?)\r?\n(?:\1|\.\.\.)[ \t]*(?:\r?\n|$)(?:\r?\n)*", re.DOTALL)
FRONT_MATTER_KEYS = {  # key to name in the metadata
    "title": "title", "date": "date", "license": "license", "licence": "license", "lang": "lang", "language": "lang", "author": "author",
    "authors": "author", "tags": "tags",
}  # fmt: skip
# PDFium writes U+0002 for a hyphen that ends a line, and no line break.
LINE_HYPHEN = re.compile(r"(?<=[^\W\d_])[\x02\ufffe](\w)")
CELL_PARAGRAPH = re.compile(r"(<t[dh][^>]*>)<p>((?:(?!</?p\b).)*)</p>(?=</t[dh]>)", re.DOTALL)
MAX_ZIP_BYTES = 1 << 28  # decompressed


def split_front_matter(text: str) -> tuple[str, dict[str, Any]]:
    """Return the text below the front matter, YAML or TOML, and its metadata.

    Without front matter that is all of the text.
    """
    match = FRONT_MATTER.match(text)
    if match is None:
        return text, {}
    try:
        values = tomllib.loads(match[2]) if match[1] == "+++" else YAML(typ="safe", pure=True).load(match[2])
    except (YAMLError, ValueError, RecursionError):
        return text, {}
    if not isinstance(values, Mapping):
        return text, {}
    metadata: dict[str, Any] = {}
    for key, value in values.items():
        name = FRONT_MATTER_KEYS.get(str(key).lower())
        if name and value not in (None, "", []):
            words = [_clean(item) for item in value] if isinstance(value, list) else _clean(value)
            metadata.setdefault(name, words)
    return text[match.end() :], metadata


def _clean(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode()


def read_notebook(text: str) -> ExtractedDocument | str:
    """Return the cells of a Jupyter notebook as Markdown, without outputs."""
    try:
        notebook = json.loads(text)
        cells = notebook.get("cells") or [cell for sheet in notebook.get("worksheets", []) for cell in sheet["cells"]]
        info = notebook.get("metadata", {})
        language = info.get("language_info", {}).get("name") or info.get("kernelspec", {}).get("language") or "python"
        parts = [_cell_text(cell, str(language)) for cell in cells]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return "unreadable"
    content = "\n\n".join(part for part in parts if part.strip()) + "\n"
    return ExtractedDocument(content.encode("utf-8", "replace"), "text/markdown", {}, ())


def _cell_text(cell: Mapping[str, Any], language: str) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = source if isinstance(source, str) else "".join(source)
    if cell["cell_type"] == "heading":  # format 3
        return f"{'#' * int(cell.get('level', 1))} {text}"
    if cell["cell_type"] != "code" or not text.strip():
        return text.rstrip("\n") if cell["cell_type"] in ("markdown", "raw") else ""
    fence = "```" if "```" not in text else "````"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def read_docx(content: bytes) -> ExtractedDocument | str:
    """Return the text of a DOCX file: headings, paragraphs, lists, tables and notes."""
    try:
        import mammoth
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        return "document-needs-extra"  # pip install provenlm[documents]
    try:
        if _unpacked_bytes(content) > MAX_ZIP_BYTES:
            return "too-large"
        html = mammoth.convert_to_html(io.BytesIO(content), convert_image=mammoth.images.img_element(lambda image: {})).value
        properties = _xml_texts(content, "docProps/core.xml")
    except Exception:  # mammoth raises many kinds of exceptions for damaged files
        return "document-damaged"
    html = CELL_PARAGRAPH.sub(r"\1\2", html)  # so that a row of a table is a line
    text = extract_plain_text(f"<html><body>{html}</body></html>", main_content=False, preserve_formatting=True, alt_texts=False)
    metadata = {"title": properties["title"]} if properties.get("title") else {}
    return ExtractedDocument(text.encode("utf-8", "replace"), "text/plain", metadata, ())


def read_epub(content: bytes) -> ExtractedDocument | str:
    """Return the text of the chapters of an EPUB file in reading order."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        return "document-needs-extra"
    try:
        if _unpacked_bytes(content) > MAX_ZIP_BYTES:
            return "too-large"
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            container = _parse_xml(book.read("META-INF/container.xml"))
            package_name = str(next(container.iter("{*}rootfile")).get("full-path"))
            package = _parse_xml(book.read(package_name))
            chapters = [book.read(name).decode("utf-8", "replace") for name in _chapter_names(package, package_name)]
        metadata = {
            name: " ".join(element.text.split())
            for name, tag in (("title", "title"), ("lang", "language"), ("author", "creator"), ("date", "date"))
            if (element := next(package.iter(f"{{*}}{tag}"), None)) is not None and element.text
        }
    except Exception:  # zipfile and lxml raise many kinds of exceptions for damaged files
        return "document-damaged"
    texts = [extract_plain_text(chapter, main_content=False, preserve_formatting=True, alt_texts=False) for chapter in chapters]
    return ExtractedDocument("\n\n".join(filter(str.strip, texts)).encode("utf-8", "replace"), "text/plain", metadata, ())


def _chapter_names(package: etree._Element, package_name: str) -> Iterator[str]:
    items = {item.get("id"): item for item in package.iter("{*}item")}
    for reference in package.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is not None and "html" in (item.get("media-type") or "") and "nav" not in (item.get("properties") or "").split():
            yield posixpath.normpath(posixpath.join(posixpath.dirname(package_name), unquote(str(item.get("href")))))


def _parse_xml(content: bytes) -> etree._Element:
    return etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def _unpacked_bytes(content: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return sum(item.file_size for item in archive.infolist())


def _xml_texts(content: bytes, name: str) -> dict[str, str]:
    """Map the local names of the elements of an XML file in a ZIP archive to their texts."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if name not in archive.namelist():
            return {}
        root = _parse_xml(archive.read(name))
    return {etree.QName(element).localname: (element.text or "").strip() for element in root}


def read_pdf(content: bytes) -> ExtractedDocument | str:
    """Return the text of a PDF, with the words joined that lines divide.

    Returns the reason if that is impossible.
    """
    try:
        import pypdfium2
    except ImportError:
        return "pdf-needs-extra"  # pip install provenlm[documents]
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        return "pdf-encrypted" if "password" in str(error).lower() else "pdf-damaged"
    try:
        pages = [page.get_textpage().get_text_bounded() for page in document]
        title = document.get_metadata_value("Title").strip()
    except pypdfium2.PdfiumError:
        return "pdf-damaged"
    finally:
        document.close()
    text = "\n\n".join(LINE_HYPHEN.sub(_join_word, page.replace("\r\n", "\n")).replace("\x02", "-").strip() for page in pages)
    return ExtractedDocument(text.encode("utf-8", "replace"), "text/plain", {"title": _clean(title)} if title else {}, ())


def _join_word(match: re.Match[str]) -> str:
    """Drop the hyphen of a divided word, and keep that of a name such as North-Sea."""
    return match[1] if match[1].islower() else f"-{match[1]}"
