import pytest

from provenlm.core.errors import ProvenlmError
from provenlm.domains.text.filter.c4_lines import C4LineConfig, make_line_cleaner


def clean(text: str, **options) -> tuple[str, dict[str, int], str | None]:
    content, counts, drop_reason = make_line_cleaner(C4LineConfig(**options))(text.encode())
    return content.decode(), dict(counts), drop_reason


PAGE = """A line that ends as it should.
Home | About | Contact
Two words.
It trails off into nothing...
  "Indented and quoted," she said.

Please enable JavaScript in your browser.
Read our Privacy Policy before you go on.
As others found [12] before us [citation needed]."""


def test_each_line_is_removed_for_one_reason_and_citations_are_removed():
    text, counts, drop_reason = clean(PAGE)
    assert text == 'A line that ends as it should.\n  "Indented and quoted," she said.\n\nAs others found  before us .'
    assert counts == {"lines.no_terminal_punct": 2, "lines.too_few_words": 1, "lines.banned_phrase": 2, "lines.citations": 2}
    assert drop_reason is None


def test_without_the_terminal_punctuation_rule_menus_are_kept():
    text, counts, _ = clean(PAGE, filter_no_terminal_punct=False, remove_citations=False)
    assert counts == {"lines.too_few_words": 1, "lines.banned_phrase": 2}
    assert "Home | About" in text and "[12]" in text


def test_a_line_with_a_too_long_word_is_removed():
    assert clean(f"See {'x' * 1001} there.\nStay here, please.") == ("Stay here, please.", {"lines.too_long_word": 1}, None)


def test_a_page_of_lorem_ipsum_is_dropped():
    assert clean("Lorem Ipsum dolor sit amet.")[2] == "lorem_ipsum"


def test_a_bad_word_drops_a_page_only_at_word_boundaries(tmp_path):
    path = tmp_path / "words"
    path.write_text("darn\n\nbad phrase\n")
    assert clean("That Darn cat is here.", bad_words_file=str(path))[2] == "bad_word"
    assert clean("It was a bad phrase, surely.", bad_words_file=str(path))[2] == "bad_word"
    assert clean("She darned a sock yesterday.", bad_words_file=str(path))[2] is None


@pytest.mark.parametrize(
    ("text", "message"), [(None, "must be a readable text file, got .*words"), ("\n", "must contain a word, got .*words")]
)
def test_an_unusable_file_of_bad_words_is_an_error_that_names_it(tmp_path, text, message):
    if text is not None:
        (tmp_path / "words").write_text(text)
    with pytest.raises(ProvenlmError, match=message):
        make_line_cleaner(C4LineConfig(bad_words_file=str(tmp_path / "words")))
