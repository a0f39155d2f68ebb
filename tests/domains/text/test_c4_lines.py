import pytest

from provenlm.core.errors import UserError
from provenlm.domains.text.filter.c4_lines import Lines, cleaning


def cleaned(text: str, **asked) -> tuple[str, dict[str, int], str | None]:
    body, found, why = cleaning(Lines(**asked))(text.encode())
    return body.decode(), dict(found), why


PAGE = """A line that ends as it should.
Home | About | Contact
Two words.
It trails off into nothing...
  "Indented and quoted," she said.

Please enable JavaScript in your browser.
Read our Privacy Policy before you go on.
As others found [12] before us [citation needed]."""


def test_lines_go_for_one_reason_each_and_citations_are_taken_out():
    body, found, why = cleaned(PAGE)
    assert body == 'A line that ends as it should.\n  "Indented and quoted," she said.\n\nAs others found  before us .'
    assert found == {"lines.not_ended": 2, "lines.few_words": 1, "lines.phrase": 2, "lines.citations": 2}
    assert why is None


def test_without_the_rule_on_endings_menus_and_ellipses_stay():
    body, found, _ = cleaned(PAGE, ended=False, citations=False)
    assert found == {"lines.few_words": 1, "lines.phrase": 2}
    assert "Home | About" in body and "[12]" in body


def test_a_line_with_a_word_without_end_goes():
    assert cleaned(f"See {'x' * 1001} there.\nStay here, please.") == ("Stay here, please.", {"lines.long_word": 1}, None)


def test_a_page_of_filler_is_dropped():
    assert cleaned("Lorem Ipsum dolor sit amet.")[2] == "lorem_ipsum"


def test_a_page_with_a_word_from_the_file_is_dropped_and_a_longer_word_is_another(tmp_path):
    path = tmp_path / "words"
    path.write_text("darn\n\nbad phrase\n")
    assert cleaned("That Darn cat is here.", bad_words=str(path))[2] == "bad_word"
    assert cleaned("It was a bad phrase, surely.", bad_words=str(path))[2] == "bad_word"
    assert cleaned("She darned a sock yesterday.", bad_words=str(path))[2] is None


@pytest.mark.parametrize(("text", "message"), [(None, "words: not a text file"), ("\n", "words: no word in it")])
def test_a_file_of_bad_words_that_cannot_be_used_is_an_error_that_names_it(tmp_path, text, message):
    if text is not None:
        (tmp_path / "words").write_text(text)
    with pytest.raises(UserError, match=message):
        cleaning(Lines(bad_words=str(tmp_path / "words")))
