"""Every script is measured in words, sentences and stop words of its own."""

import json
from pathlib import Path

import pytest

from provenlm.core.records import Record
from provenlm.domains.text.filter import languages
from provenlm.domains.text.filter.c4_lines import C4LineConfig, make_line_cleaner
from provenlm.domains.text.filter.spec import TextFilterConfig, make_batch_filter
from provenlm.domains.text.filter.text_stats import compute_text_stats

ARTICLES = json.loads(Path(__file__).with_name("language_articles.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ARTICLES)
def test_an_article_is_kept_under_default_settings(language):
    record = Record.from_content(ARTICLES[language].encode(), "text/plain", language)
    (result,) = make_batch_filter(TextFilterConfig())([record])
    assert result.drop_reason is None
    assert min(result.sub_scores.values()) > 0.2
    assert result.record.content == record.content


@pytest.mark.parametrize("language", ["zh", "ja", "th", "km", "lo", "my", "bo"])
def test_a_repeated_phrase_of_an_unspaced_script_is_dropped(language):
    phrase = ARTICLES[language].splitlines()[0]
    (result,) = make_batch_filter(TextFilterConfig())([Record.from_content(f"{phrase}\n".encode() * 40, "text/plain", language)])
    assert result.drop_reason is not None
    assert result.drop_reason.startswith("high_")


def test_words_of_an_unspaced_script_are_cut_and_sentences_end():
    stats = compute_text_stats([languages.measurable_text("面包店开门了。今天下雨！\n".encode())])
    assert (stats.doc_words[0], stats.num_sentences[0], stats.avg_word_length[0]) == (5, 2, 5.4)


@pytest.mark.parametrize("text", ["plain English. It stays!", "naïve café – “quoted” …", "the sign 好 in a long English sentence"])
def test_text_without_such_signs_is_measured_as_it_is(text):
    assert languages.measurable_text(text.encode()) == text.encode()


def test_invalid_bytes_are_measured_as_they_are():
    assert languages.measurable_text(b"\xff\xe3\x80") == b"\xff\xe3\x80"


@pytest.mark.parametrize(
    ("language", "text", "count"), [("de", "Und der Kai, die Flut", 3), ("zh", "因为下雨", 4), ("de", "Kai Flut", 0)]
)
def test_distinct_stop_words_of_the_language_count(language, text, count):
    assert languages.count_stop_words(text.encode(), language) == count


def test_prose_without_stop_words_of_its_language_is_dropped():
    words = [
        "Hafenamt",
        "Bootsliste",
        "Kaimauer",
        "Flutwelle",
        "Tintenfass",
        "Wetterbericht",
        "Fischerboot",
        "Schreibstube",
        "Nachtwache",
        "Uhrwerk",
    ]
    text = "\n".join(" ".join([*words[i:], *words[:i]]) + "." for i in range(5))
    (result,) = make_batch_filter(TextFilterConfig(min_score=0))([Record.from_content(text.encode(), "text/plain", "de")])
    assert result.record.metadata["profile"] == "prose"
    assert result.drop_reason == "low_stop_words"


def test_the_line_filter_keeps_lines_that_end_a_sentence_in_their_script():
    text = "村里的面包店在日出之前就开门了。\nदुकान सुबह खुलती है।\n没有句号的一行文字在这里\n"
    content, removed, reason = make_line_cleaner(C4LineConfig())(text.encode())
    assert content.decode() == "村里的面包店在日出之前就开门了。\nदुकान सुबह खुलती है।\n"
    assert (removed, reason) == ({"lines.no_terminal_punct": 1}, None)
