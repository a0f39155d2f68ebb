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

RELAXED = (
    "top_3_gram_frac",
    "top_4_gram_frac",
    *(f"dup_{size}_gram_frac" for size in range(5, 10)),
)  # the lines of PROSE are similar


def violation(rules, text: str) -> str | None:
    _, name = first_violations(rules, compute_text_stats([PROSE.encode(), text.encode()]))
    return name


@pytest.mark.parametrize(
    "rules", [GopherQuality(), GopherRepetitionRules(**dict.fromkeys(RELAXED, 1.0)), C4Quality(), FineWebQuality()]
)
def test_ordinary_prose_violates_no_rule(rules):
    assert violation(rules, PROSE) is None


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        (GopherQuality(), "too few words", "doc_words"),
        (GopherQuality(), PROSE.replace(" ", " a ").replace("The", "a").replace("that", "a"), "avg_word_length"),
        (GopherQuality(), PROSE.replace("cat", "# # # #").replace("dog", "# " * 12), "symbol_word_ratio"),
        (GopherQuality(), "\n".join("- " + line for line in PROSE.split("\n")), "bullet_line_ratio"),
        (GopherQuality(), PROSE.replace(".", "..."), "ellipsis_line_ratio"),
        (GopherQuality(), PROSE + " 111" * 40, "alpha_words_ratio"),
        (GopherQuality(), " ".join(f"word{i}" for i in range(60)), "stop_words"),
        (GopherRepetitionRules(), (PROSE + "\n") * 2, "dup_line_frac"),
        (GopherRepetitionRules(dup_line_frac=1, dup_line_char_frac=1), (PROSE + "\n\n") * 2, "dup_para_frac"),
        (C4Quality(), PROSE + "\n{", "num_curly_brackets"),
        (C4Quality(), PROSE.replace(".", ""), "num_sentences"),
        (FineWebQuality(), PROSE.replace(".", ""), "line_punct_ratio"),
        (FineWebQuality(), PROSE + "\nshort line." * 30, "dup_line_char_frac"),
        (FineWebQuality(), PROSE + "\n" + "\n".join(f"line {i}." for i in range(40)), "short_line_ratio"),
        (FineWebQuality(), PROSE.replace(" ", "\n\n", 80), "line_punct_ratio"),
        (FineWebQuality(line_punct_thr=0, short_line_thr=1, dup_line_char_frac=1), PROSE.replace(" ", "\n\n"), "new_line_ratio"),
    ],
)
def test_each_rule_fires_on_a_text_made_to_violate_it(rules, text, expected):
    assert violation(rules, text) == expected


def test_each_ngram_limit_fires_before_that_of_longer_ngrams():
    passage = [f"w{i}" for i in range(9)]
    for size, name in ((5, "dup_5_gram_frac"), (7, "dup_7_gram_frac"), (9, "dup_9_gram_frac")):
        words = [word for i in range(12) for word in (*passage[:size], f"x{i}", f"y{i}", f"z{i}")]
        relaxed = {field.name: 1.0 for field in dataclasses.fields(GopherRepetitionRules) if field.name != name}
        assert violation(GopherRepetitionRules(**relaxed), " ".join(words)) == name
        longer = f"dup_{size + 1}_gram_frac"
        relaxed_too = {field.name: 1.0 for field in dataclasses.fields(GopherRepetitionRules) if field.name != longer}
        assert violation(GopherRepetitionRules(**relaxed_too), " ".join(words)) is None


def test_a_threshold_can_be_set_and_a_wrong_name_is_an_error():
    assert config.parse_config(GopherQuality, {"doc_words": [1, 10]}, "x").doc_words == (1.0, 10.0)
    with pytest.raises(ProvenlmError, match=r"unknown key 'doc_word' \(did you mean 'doc_words'\?\)"):
        config.parse_config(GopherQuality, {"doc_word": [1, 10]}, "x")
    with pytest.raises(ProvenlmError, match=r"doc_words must be \[min, max\]"):
        config.parse_config(GopherQuality, {"doc_words": [10, 1]}, "x")
