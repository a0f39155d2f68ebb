"""Bytes of a page and what its header says in, text and the name of its encoding out (RFC 9110; HTML standard, section 13.2.3)."""

import codecs
import re
from collections.abc import Iterator

from bs4.dammit import UnicodeDammit

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
META_CHARSET = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([a-zA-Z0-9_:.-]+)""", re.IGNORECASE)
XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([a-zA-Z0-9_:.-]+)""")
HEADER_CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
PRINTABLE_ASCII = bytes(range(32, 127))  # a guess under which markup is no markup is wrong, whatever the statistics say
MAX_DECLARATION_BYTES = 4096  # bytes searched for a declaration; browsers search 1024
MAX_DETECTION_BYTES = 1 << 16
# What browsers take the Latin labels to mean (Encoding standard, section 4.2).
BROWSER_ENCODINGS = {
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}


def decode_body(body: bytes, content_type: str) -> tuple[str, str]:
    """`body` as text: by its byte order mark, its header, its own declaration, as UTF-8, or by what it looks like.

    The first of these under which every byte has a meaning wins, or UTF-8 if most of what is not ASCII is; strays in it are Latin. If none
    does, the first keeps its word and U+FFFD stands for the rest.
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
    """UTF-8 with pieces of another page's Latin in it, each byte of them as cp1252; None for what is hardly UTF-8 at all."""
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
    yield from (
        "utf-8" if name.startswith("utf-16") else name for name in declared_names
    )  # a page whose declaration is legible is not UTF-16
    yield "utf-8"
    detected_names = _lookup_encoding(UnicodeDammit(body[:MAX_DETECTION_BYTES]).original_encoding or "")
    yield from (name for name in detected_names if PRINTABLE_ASCII.decode(name, "replace") == PRINTABLE_ASCII.decode("ascii"))
    yield "cp1252"


def _lookup_encoding(label: str) -> list[str]:
    """Python's name of an encoding that turns bytes into text; nothing for a label that means none."""
    try:
        info = codecs.lookup(label.strip().lower())
    except (LookupError, ValueError):
        return []
    return [BROWSER_ENCODINGS.get(info.name, info.name)] if info._is_text_encoding else []
