import pydoc
import random
from collections import Counter
from itertools import pairwise

import pytest

from provenlm.corpus import statistics
from provenlm.corpus.statistics import LONG_WORD, SHORT_LINE, STOP_WORDS, measure

WHITE = " \t\n\v\f\r"


def naive(text: str) -> dict[str, float]:
    """The same statistics in plain Python, from their definitions."""
    for sign in WHITE:
        assert sign.isspace()
    words = [word for line in text.splitlines() for word in line.split()] if text.isascii() else text.encode().split()
    words = [word.decode() if isinstance(word, bytes) else word for word in words]
    solid = sum(map(len, words))
    lines = [line.strip(WHITE) for line in text.split("\n") if line.strip(WHITE)]
    seen: set[str] = set()
    again = 0
    for line in lines:
        again += len(line) if line in seen else 0
        seen.add(line)
    grams = [tuple(words[i : i + 10]) for i in range(len(words) - 9)]
    first = {gram: i for i, gram in reversed(list(enumerate(grams)))}
    covered = {i + k for i, gram in enumerate(grams) if first[gram] < i for k in range(10)}
    pairs = Counter(pairwise(words))
    top = max(pairs.values(), default=0)
    best = next((pair for pair, count in pairs.items() if count == top), ("", ""))  # a Counter is in order of first sight
    return {
        "words": len(words),
        "word_length": solid / len(words),
        "letter_words": sum(any((c.isascii() and c.isalpha()) or ord(c) > 127 for c in word) for word in words) / len(words),
        "symbol_words": (text.count("#") + text.count("...") + text.count("…")) / len(words),
        "digits": sum(c in "0123456789" for c in text) / solid,
        "control": sum((ord(c) < 32 and c not in WHITE) or c in "\x7f\ufffd" for c in text) / len(text.encode()),
        "long_words": sum(len(word) for word in words if len(word) > LONG_WORD) / solid,
        "short_lines": sum(len(line) <= SHORT_LINE for line in lines) / len(lines),
        "repeated_lines": again / sum(map(len, lines)),
        "top_bigram": top * (len(best[0]) + len(best[1])) / solid if top > 1 else 0,
        "repeated_ngrams": sum(len(words[i]) for i in covered) / solid,
        "stop_words": sum(stop.decode() in words for stop in STOP_WORDS),
    }


def noise(seed: int) -> str:
    random_ = random.Random(seed)
    vocabulary = ["the", "of", "and", "x1", "42", "#", "...", "é", "naïve", "…", "日本", "a" * 70, "\x01", "\ufffd", "cat", "sat"]
    return "".join(random_.choice(vocabulary) + random_.choice([" ", " ", "\n", "\t", "\n\n", "  \r\n"]) for _ in range(400))


TEXTS = {
    "documentation": pydoc.plain(pydoc.render_doc("json", renderer=pydoc.plaintext)),
    "one word": "hello",
    "a passage twice": "one two three four five six seven eight nine ten eleven\n" * 2 + "end",
    **{f"noise {seed}": noise(seed) for seed in range(8)},
}


@pytest.mark.parametrize("name", TEXTS)
def test_statistics_equal_their_definitions_in_plain_python(name):
    found = measure(TEXTS[name].encode())
    assert {field: getattr(found, field) for field in naive(TEXTS[name])} == pytest.approx(naive(TEXTS[name]))


def test_a_text_without_words_has_only_zeros():
    for empty in (b"", b" \n\n\t "):
        found = measure(empty)
        assert {getattr(found, name) for name in statistics.Statistics.__slots__} == {0}


def test_statistics_by_hand():
    found = measure(b"aa bb\naa bb\n12 the\n")
    assert (found.words, found.stop_words) == (6, 1)
    assert found.word_length == pytest.approx(13 / 6)
    assert found.letter_words == pytest.approx(5 / 6)
    assert found.digits == pytest.approx(2 / 13)
    assert found.repeated_lines == pytest.approx(5 / 16)  # lines of 5, 5 and 6 characters, the second stood before
    assert found.top_bigram == pytest.approx(2 * 4 / 13)
