import dataclasses

import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError
from provenlm.domains.text.filter.quality_rules import (
    C4Quality,
    FineWebQuality,
    GopherQuality,
    GopherRepetitionRules,
    first_violations,
)
from provenlm.domains.text.filter.text_stats import compute_text_stats

PROSE = "\n".join(f"The {a} of the {b} that we have seen is on the {c} with some care." for a, b, c in zip(
    ("cat", "dog", "bird", "horse", "cow", "goose", "hen"), ("house", "river", "hill", "field", "street", "lake", "wood"),
    ("mat", "rug", "roof", "grass", "road", "ice", "branch"), strict=True))  # fmt: skip

RELAXED = ("top_trigram", "top_4gram", *(f"repeated_{size}grams" for size in range(5, 10)))  # its lines are made alike


def violation(rules, text: str) -> str | None:
    _, name = first_violations(rules, compute_text_stats([PROSE.encode(), text.encode()]))
    return name


@pytest.mark.parametrize(
    "limits", [GopherQuality(), GopherRepetitionRules(**dict.fromkeys(RELAXED, 1.0)), C4Quality(), FineWebQuality()]
)
def test_ordinary_prose_is_inside(rules):
    assert violation(rules, PROSE) is None


@pytest.mark.parametrize(
    ("limits", "text", "expected"),
    [
        (GopherQuality(), "too few words", "words"),
        (GopherQuality(), PROSE.replace(" ", " a ").replace("The", "a").replace("that", "a"), "word_length"),
        (GopherQuality(), PROSE.replace("cat", "# # # #").replace("dog", "# " * 12), "symbol_words"),
        (GopherQuality(), "\n".join("- " + line for line in PROSE.split("\n")), "bullet_lines"),
        (GopherQuality(), PROSE.replace(".", "..."), "ellipsis_lines"),
        (GopherQuality(), PROSE + " 111" * 40, "letter_words"),
        (GopherQuality(), " ".join(f"word{i}" for i in range(60)), "stop_words"),
        (GopherRepetitionRules(), (PROSE + "\n") * 2, "lines_again"),
        (GopherRepetitionRules(dup_line_frac=1, dup_line_char_frac=1), (PROSE + "\n\n") * 2, "paragraphs_again"),
        (C4Quality(), PROSE + "\n{", "braces"),
        (C4Quality(), PROSE.replace(".", ""), "sentences"),
        (FineWebQuality(), PROSE.replace(".", ""), "ended_lines"),
        (FineWebQuality(), PROSE + "\nshort line." * 30, "repeated_lines"),
        (FineWebQuality(), PROSE + "\n" + "\n".join(f"line {i}." for i in range(40)), "short_lines"),
        (FineWebQuality(), PROSE.replace(" ", "\n\n", 80), "ended_lines"),
        (FineWebQuality(line_punct_thr=0, short_line_thr=1, dup_line_char_frac=1), PROSE.replace(" ", "\n\n"), "line_breaks"),
    ],
)
def test_each_rule_fires_on_a_text_that_was_made_for_it(rules, text, expected):
    assert violation(rules, text) == expected


def test_each_n_gram_limit_fires_and_no_longer_one_before_it():
    passage = [f"w{i}" for i in range(9)]
    for size, name in ((5, "repeated_5grams"), (7, "repeated_7grams"), (9, "repeated_9grams")):
        words = [word for i in range(12) for word in (*passage[:size], f"x{i}", f"y{i}", f"z{i}")]
        relaxed = {field.name: 1.0 for field in dataclasses.fields(GopherRepetitionRules) if field.name != name}
        assert violation(GopherRepetitionRules(**relaxed), " ".join(words)) == name
        longer = f"repeated_{size + 1}grams" if size < 9 else "repeated_ngrams"
        relaxed_too = {field.name: 1.0 for field in dataclasses.fields(GopherRepetitionRules) if field.name != longer}
        assert violation(GopherRepetitionRules(**relaxed_too), " ".join(words)) is None


def test_a_threshold_can_be_set_and_a_wrong_name_is_an_error():
    assert config.parse_config(GopherQuality, {"words": [1, 10]}, "x").doc_words == (1.0, 10.0)
    with pytest.raises(ProvenlmError, match=r"unknown key 'word' \(did you mean 'words'\?\)"):
        config.parse_config(GopherQuality, {"word": [1, 10]}, "x")
    with pytest.raises(ProvenlmError, match=r"words: \[least, most\]"):
        config.parse_config(GopherQuality, {"words": [10, 1]}, "x")
