"""Detect the character encoding of a page and decode it.

Follows RFC 9110, the HTML standard (section 13.2.3) and the labels of the Encoding standard (section 4.2).
"""

import codecs
import re
from collections.abc import Iterator

import bs4.dammit
import charset_normalizer
import webencodings
from bs4.dammit import UnicodeDammit

# Beautiful Soup would take chardet wherever another package has installed it, and its answers differ.
bs4.dammit.chardet_module = charset_normalizer

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
META_CHARSET = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([a-zA-Z0-9_:.-]+)""", re.IGNORECASE)
XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([a-zA-Z0-9_:.-]+)""")
HEADER_CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
PRINTABLE_ASCII = bytes(range(32, 127))  # a detected encoding that does not map markup to itself is wrong
MAX_DECLARATION_BYTES = 4096  # bytes searched for a declaration; browsers search 1024
MAX_DETECTION_BYTES = 1 << 16
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
MAX_INVALID_FRAC = 0.05  # of the characters beyond ASCII; a declared encoding with more invalid bytes is wrong
# Python codecs that decode what the Encoding standard demands of the name, in this order. The first fails on its extensions.
CODECS = {
    "gbk": ("gb18030",),
    "euc-jp": ("euc_jp", "euc_jis_2004"),
    "iso-2022-jp": ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2004"),
    "big5": ("big5hkscs", "cp950"),
    "utf-16le": ("utf-16-le",),
    "utf-16be": ("utf-16-be",),
}
PYTHON_NAMES = {"gb2312": "gbk", "iso8859-1": "cp1252", "big5": "big5"}  # labels that only Python knows, such as latin_1
# They would hide markup, or are not the encoding of a text.
REFUSED_ENCODINGS = {
    "replacement", "utf-7", "x-user-defined", "idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "mbcs", "oem"
}  # fmt: skip


def decode_body(body: bytes, content_type: str) -> tuple[str, str]:
    """Decode the body of a page; return the text and the name of the encoding.

    Candidates in order: byte order mark, HTTP header, declaration in the page, UTF-8, the declared encoding with U+FFFD for a
    few invalid bytes, statistical detection. The first encoding that decodes every byte wins; UTF-8 also wins if most non-ASCII
    text is valid, and invalid bytes are then decoded as cp1252. If none does, the first candidate is used with U+FFFD.
    """
    for mark, name in BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace"), name
    declared_names = list(_declared_encodings(body, content_type))
    for name in (*declared_names, "utf-8"):
        try:
            return body.decode(name), name
        except UnicodeDecodeError:
            if name == "utf-8" and (repaired := _decode_mixed_latin(body)) is not None:
                return repaired, name
    for name in declared_names:
        text = body.decode(name, "replace")
        if text.count("\ufffd") <= MAX_INVALID_FRAC * sum(map(len, BEYOND_ASCII.findall(text))):
            return text, name
    for name in (*_detected_encodings(body), "cp1252"):
        try:
            return body.decode(name), name
        except UnicodeDecodeError:
            continue
    name = (*declared_names, "utf-8")[0]
    return body.decode(name, "replace"), name


def _decode_mixed_latin(body: bytes) -> str | None:
    """Decode UTF-8 that contains pieces of cp1252; None if most of it is not UTF-8."""
    strays = body.decode("utf-8", "replace").count("\ufffd") - body.count("\ufffd".encode())
    text = body.decode("utf-8", "provenlm.latin")
    letters = sum(map(len, BEYOND_ASCII.findall(text)))
    return text if (letters - strays) * 2 >= strays else None


def _latin(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("provenlm.latin", _latin)


def _declared_encodings(body: bytes, content_type: str) -> Iterator[str]:
    """Yield the codecs that the HTTP header and the page declare."""
    header = HEADER_CHARSET.search(content_type)
    declaration = XML_ENCODING.search(body[:MAX_DECLARATION_BYTES]) or META_CHARSET.search(body[:MAX_DECLARATION_BYTES])
    yield from lookup_encoding(header[1] if header else "")
    declared_names = lookup_encoding(declaration[1].decode("ascii") if declaration else "")
    # A page whose declaration is readable as ASCII is not UTF-16.
    yield from ("utf-8" if name.startswith("utf-16") else name for name in declared_names)


def _detected_encodings(body: bytes) -> Iterator[str]:
    """Yield the codecs that statistics suggest."""
    for name in lookup_encoding(UnicodeDammit(body[:MAX_DETECTION_BYTES]).original_encoding or ""):
        if PRINTABLE_ASCII.decode(name, "replace") == PRINTABLE_ASCII.decode("ascii"):
            yield name


def lookup_encoding(label: str) -> tuple[str, ...]:
    """Return the Python codecs for a label of the Encoding standard, or of Python.

    None for an unknown label.
    """
    encoding = webencodings.lookup(label)
    try:
        info = encoding.codec_info if encoding is not None else codecs.lookup(label.strip().lower())
    except (LookupError, ValueError):
        return ()
    python_name = PYTHON_NAMES.get(info.name, info.name)
    name = encoding.name if encoding is not None else python_name
    return CODECS.get(name, (python_name,)) if info._is_text_encoding and name not in REFUSED_ENCODINGS else ()
