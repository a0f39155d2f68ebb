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


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("Shift_JIS", "cp932", "㈱港 ①電話 髙橋"),
        ("x-sjis", "cp932", "Ⅳ 号"),
        ("windows-31j", "cp932", "①"),
        ("euc-jp", "euc_jis_2004", "① 手順"),
        ("TIS-620", "cp874", "กลางคืน… “ความยาว”"),
        ("x-mac-cyrillic", "mac-cyrillic", "Портовая контора"),
        ("x-mac-roman", "mac-roman", "Größe"),
        ("x-gbk", "gb18030", "港口办公室 €"),
        ("gb2312", "gb18030", "朱镕基 喆喆"),
        ("ks_c_5601-1987", "cp949", "똠방각하"),
        ("Big5", "big5hkscs", "佢哋 港口"),
        ("iso-8859-8-i", "iso8859-8", "משרד הנמל"),
        ("unicode-1-1-utf-8", "utf-8", "Größe"),
        ("latin_1", "cp1252", "“Größe”"),
    ],
)
def test_a_label_means_what_the_encoding_standard_says(label: str, codec: str, text: str) -> None:
    """The few characters of an otherwise English page leave statistics nothing to go by."""
    page = f'<html><meta charset="{label}"><p>{"The harbour office keeps a list of boats. " * 20}</p><p>'.encode("ascii")
    assert decode_body(page + text.encode(codec), "text/html")[0].endswith(f"<p>{text}")
    assert decode_body(text.encode(codec), f"text/html; charset={label}")[0] == text


def test_one_broken_character_does_not_overrule_the_declaration() -> None:
    body = "港の事務所は夜に入った船の一覧".encode("cp932") + b"\x81 " + "を作ります。".encode("cp932")
    text = decode_body(body, "text/html; charset=shift_jis")[0]
    assert text.startswith("港の事務所") and text.endswith("を作ります。") and text.count("\ufffd") == 1


def test_a_declaration_that_most_bytes_contradict_is_not_believed() -> None:
    text = "Портовая контора записывает все суда, которые пришли ночью. " * 9
    assert decode_body(text.encode("koi8-r"), "text/html; charset=euc-jp")[0] == text


@pytest.mark.parametrize("label", ["utf-7", "hz-gb-2312", "idna", "unicode_escape", "undefined", "x-user-defined", "\0", "hex"])
def test_a_label_that_could_hide_markup_is_no_encoding(label: str) -> None:
    assert decode_body(b"+ADw-b+AD4- ~{<:Ky~} \\x41", f"text/html; charset={label}") == ("+ADw-b+AD4- ~{<:Ky~} \\x41", "utf-8")
