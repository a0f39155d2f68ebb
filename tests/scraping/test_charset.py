import pytest

from provenlm.scraping.extraction.charset import decode_body

WORD = "Größe"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (WORD.encode(), "text/html"),
        (WORD.encode("latin-1"), "text/html; charset=ISO-8859-1"),
        (WORD.encode("latin-1"), 'text/html; charset="iso-8859-1"'),
        (b"\xef\xbb\xbf" + WORD.encode(), "text/html; charset=latin-1"),
        (WORD.encode("utf-16"), "text/html"),
        (b'<meta charset="windows-1252">' + WORD.encode("cp1252"), "text/html"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-15">' + WORD.encode("latin-1"), "text/html"),
        (b'<?xml version="1.0" encoding="iso-8859-1"?>' + WORD.encode("latin-1"), "application/xhtml+xml"),
        (WORD.encode("latin-1"), "text/html; charset=utf-8"),
        (WORD.encode("latin-1"), "text/html; charset=no-such-thing"),
    ],
)
def test_text_is_decoded_in_its_actual_encoding(body: bytes, content_type: str) -> None:
    assert WORD in decode_body(body, content_type)[0]


def test_the_http_header_takes_precedence_over_the_page() -> None:
    assert decode_body(b'<meta charset="cp1251">\xe9', "text/html; charset=latin-1")[0].endswith("é")


def test_latin_1_is_decoded_as_cp1252_as_in_browsers() -> None:
    assert decode_body(b"\x93quoted\x94", "text/html; charset=iso-8859-1")[0] == "“quoted”"


def test_japanese_without_a_declaration_is_recognised() -> None:
    text = "これは日本語の文章です。文字コードの判定を試します。" * 20
    assert decode_body(text.encode("euc-jp"), "text/html")[0] == text


def test_invalid_bytes_never_stop_a_page() -> None:
    assert decode_body(b"\xff\xfea", "text/html; charset=utf-8")[0]
    assert decode_body(bytes(range(256)), "text/html; charset=rot13")[0]


def test_a_binary_codec_is_not_used_as_a_charset() -> None:
    assert decode_body(b"6869", "text/html; charset=hex") == ("6869", "utf-8")
