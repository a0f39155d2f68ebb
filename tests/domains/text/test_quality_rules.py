import dataclasses

import pytest

from provenlm.core import config
from provenlm.core.errors import UserError
from provenlm.domains.text.filter.quality_rules import C4, FineWeb, Gopher, GopherRepetition, reasons
from provenlm.domains.text.filter.text_stats import measure

PROSE = "\n".join(f"The {a} of the {b} that we have seen is on the {c} with some care." for a, b, c in zip(
    ("cat", "dog", "bird", "horse", "cow", "goose", "hen"), ("house", "river", "hill", "field", "street", "lake", "wood"),
    ("mat", "rug", "roof", "grass", "road", "ice", "branch"), strict=True))  # fmt: skip

LOOSE = ("top_trigram", "top_4gram", *(f"repeated_{size}grams" for size in range(5, 10)))  # its lines are made alike


def reason(limits, text: str) -> str | None:
    _, found = reasons(limits, measure([PROSE.encode(), text.encode()]))
    return found


@pytest.mark.parametrize("limits", [Gopher(), GopherRepetition(**dict.fromkeys(LOOSE, 1.0)), C4(), FineWeb()])
def test_ordinary_prose_is_inside(limits):
    assert reason(limits, PROSE) is None


@pytest.mark.parametrize(
    ("limits", "text", "expected"),
    [
        (Gopher(), "too few words", "words"),
        (Gopher(), PROSE.replace(" ", " a ").replace("The", "a").replace("that", "a"), "word_length"),
        (Gopher(), PROSE.replace("cat", "# # # #").replace("dog", "# " * 12), "symbol_words"),
        (Gopher(), "\n".join("- " + line for line in PROSE.split("\n")), "bullet_lines"),
        (Gopher(), PROSE.replace(".", "..."), "ellipsis_lines"),
        (Gopher(), PROSE + " 111" * 40, "letter_words"),
        (Gopher(), " ".join(f"word{i}" for i in range(60)), "stop_words"),
        (GopherRepetition(), (PROSE + "\n") * 2, "lines_again"),
        (GopherRepetition(lines_again=1, repeated_lines=1), (PROSE + "\n\n") * 2, "paragraphs_again"),
        (C4(), PROSE + "\n{", "braces"),
        (C4(), PROSE.replace(".", ""), "sentences"),
        (FineWeb(), PROSE.replace(".", ""), "ended_lines"),
        (FineWeb(), PROSE + "\nshort line." * 30, "repeated_lines"),
        (FineWeb(), PROSE + "\n" + "\n".join(f"line {i}." for i in range(40)), "short_lines"),
        (FineWeb(), PROSE.replace(" ", "\n\n", 80), "ended_lines"),
        (FineWeb(ended_lines=0, short_lines=1, repeated_lines=1), PROSE.replace(" ", "\n\n"), "line_breaks"),
    ],
)
def test_each_rule_fires_on_a_text_that_was_made_for_it(limits, text, expected):
    assert reason(limits, text) == expected


def test_each_n_gram_limit_fires_and_no_longer_one_before_it():
    passage = [f"w{i}" for i in range(9)]
    for size, name in ((5, "repeated_5grams"), (7, "repeated_7grams"), (9, "repeated_9grams")):
        words = [word for i in range(12) for word in (*passage[:size], f"x{i}", f"y{i}", f"z{i}")]
        loose = {field.name: 1.0 for field in dataclasses.fields(GopherRepetition) if field.name != name}
        assert reason(GopherRepetition(**loose), " ".join(words)) == name
        longer = f"repeated_{size + 1}grams" if size < 9 else "repeated_ngrams"
        kept = {field.name: 1.0 for field in dataclasses.fields(GopherRepetition) if field.name != longer}
        assert reason(GopherRepetition(**kept), " ".join(words)) is None


def test_a_threshold_can_be_set_and_a_wrong_name_is_an_error():
    assert config.parse(Gopher, {"words": [1, 10]}, "x").words == (1.0, 10.0)
    with pytest.raises(UserError, match=r"unknown key 'word' \(did you mean 'words'\?\)"):
        config.parse(Gopher, {"word": [1, 10]}, "x")
    with pytest.raises(UserError, match=r"words: \[least, most\]"):
        config.parse(Gopher, {"words": [10, 1]}, "x")
