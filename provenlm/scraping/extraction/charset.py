"""Detect the character encoding of a page and decode it.

Follows RFC 9110 and the HTML standard, section 13.2.3.
"""

import codecs
import re
from collections.abc import Iterator

import bs4.dammit
import charset_normalizer
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
# Encodings that browsers use for legacy labels (Encoding standard, section 4.2).
BROWSER_ENCODINGS = {
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}


def decode_body(body: bytes, content_type: str) -> tuple[str, str]:
    """Decode the body of a page; return the text and the name of the encoding.

    Candidates in order: byte order mark, HTTP header, declaration in the page, UTF-8, statistical detection. The first
    encoding that decodes every byte wins; UTF-8 also wins if most non-ASCII text is valid, and invalid bytes are then
    decoded as cp1252. If none does, the first candidate is used with U+FFFD for invalid bytes.
    """
    for mark, name in BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace"), name
    first_name = ""
    for name in _candidate_encodings(body, content_type):
        first_name = first_name or name
        try:
            return body.decode(name), name
        except UnicodeDecodeError:
            if name == "utf-8" and (repaired := _decode_mixed_latin(body)) is not None:
                return repaired, name
    return body.decode(first_name, "replace"), first_name


def _decode_mixed_latin(body: bytes) -> str | None:
    """Decode UTF-8 that contains pieces of cp1252; None if most of it is not UTF-8."""
    strays = body.decode("utf-8", "replace").count("\ufffd") - body.count("\ufffd".encode())
    text = body.decode("utf-8", "provenlm.latin")
    letters = sum(map(len, re.findall(r"[^\x00-\x7f]+", text)))
    return text if (letters - strays) * 2 >= strays else None


def _latin(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("provenlm.latin", _latin)


def _candidate_encodings(body: bytes, content_type: str) -> Iterator[str]:
    header = HEADER_CHARSET.search(content_type)
    declaration = XML_ENCODING.search(body[:MAX_DECLARATION_BYTES]) or META_CHARSET.search(body[:MAX_DECLARATION_BYTES])
    yield from _lookup_encoding(header[1] if header else "")
    declared_names = _lookup_encoding(declaration[1].decode("ascii") if declaration else "")
    # A page whose declaration is readable as ASCII is not UTF-16.
    yield from ("utf-8" if name.startswith("utf-16") else name for name in declared_names)
    yield "utf-8"
    detected_names = _lookup_encoding(UnicodeDammit(body[:MAX_DETECTION_BYTES]).original_encoding or "")
    yield from (name for name in detected_names if PRINTABLE_ASCII.decode(name, "replace") == PRINTABLE_ASCII.decode("ascii"))
    yield "cp1252"


def _lookup_encoding(label: str) -> list[str]:
    """Return the Python name of a text encoding; an empty list for an unknown label."""
    try:
        info = codecs.lookup(label.strip().lower())
    except (LookupError, ValueError):
        return []
    return [BROWSER_ENCODINGS.get(info.name, info.name)] if info._is_text_encoding else []
