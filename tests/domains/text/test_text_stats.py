import pydoc
import random
import re
import string
from collections import Counter
from itertools import groupby, pairwise

import pytest

from provenlm.domains.text.filter import text_stats
from provenlm.domains.text.filter.text_stats_kernels import LONG_WORD, SHORT_LINE, STOP_WORDS

WHITE = " \t\n\v\f\r"


def measure(*texts: bytes) -> dict[str, list[float]]:
    found = text_stats.measure(texts)
    return {name: getattr(found, name).tolist() for name in text_stats.Statistics.__slots__}


def of(text: bytes) -> dict[str, float]:
    return {name: values[0] for name, values in measure(text).items()}


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
        **naive_lines(text, lines, words),
        **naive_ngrams(words),
    }


def naive_lines(text: str, lines: list[str], words: list[str]) -> dict[str, float]:
    blocks = [
        tuple(line.strip(WHITE) for line in block)
        for full, block in groupby(text.split("\n"), lambda x: bool(x.strip(WHITE)))
        for block in [list(block)]
        if full
    ]
    again = [block for place, block in enumerate(blocks) if block in blocks[:place]]
    ended = [line for line in lines if re.search(r"[.?!][\"']?$", line)]
    long = [line for line in ended if len(line.encode().split()) >= 3 and not line.endswith("...")]
    return {
        "bullet_lines": sum(line[0] in "-*•" for line in lines) / len(lines),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines) / len(lines),
        "ended_lines": len(ended) / len(lines),
        "line_breaks": text.count("\n") / len(words),
        "lines_again": sum(line in lines[:place] for place, line in enumerate(lines)) / len(lines),
        "paragraphs_again": len(again) / len(blocks),
        "repeated_paragraphs": sum(len(line) for block in again for line in block) / sum(map(len, lines)),
        "sentences": sum(len(re.findall(r"[.?!][\"']?(?=[ \t\r\v\f]|$)", line)) for line in long),
        "braces": text.count("{") + text.count("}"),
        "punctuation": sum(c in string.punctuation for c in text) / sum(map(len, words)),
        "mean_line": sum(map(len, lines)) / len(lines),
        "longest_line": max(map(len, lines)),
    }


def naive_ngrams(words: list[str]) -> dict[str, float]:
    found, solid = {}, sum(map(len, words))
    for size, name in ((3, "top_trigram"), (4, "top_4gram")):
        grams = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
        best, times = max(grams.items(), key=lambda item: item[1], default=((), 0))
        found[name] = times * sum(map(len, best)) / solid if times > 1 else 0
    for size in range(5, 10):
        grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
        covered = {i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(size)}
        found[f"repeated_{size}grams"] = sum(len(words[i]) for i in covered) / solid
    return found


def noise(seed: int) -> str:
    random_ = random.Random(seed)
    vocabulary = ["the", "of", "and", "x1", "42", "#", "...", "é", "naïve", "…", "日本", "a" * 70, "\x01", "\ufffd", "cat", "sat"]
    vocabulary += ["- x", "• y", "end.", 'said."', "what?", "wait...", "{", "a.b", "one two three."]
    return "".join(random_.choice(vocabulary) + random_.choice([" ", " ", "\n", "\t", "\n\n", "  \r\n"]) for _ in range(400))


TEXTS = {
    "documentation": pydoc.plain(pydoc.render_doc("json", renderer=pydoc.plaintext)),
    "one word": "hello",
    "paragraphs": "One is one. Two\nis two.\n\nThree is three!\n \nOne is one. Two\n  is two.\n\n- bullets and so on…\n" * 2,
    "a passage twice": "one two three four five six seven eight nine ten eleven\n" * 2 + "end",
    "words that repeat at all distances": " ".join(random.Random(5).choices("abc", k=300)),
    **{f"noise {seed}": noise(seed) for seed in range(8)},
}


@pytest.mark.parametrize("name", TEXTS)
def test_statistics_equal_their_definitions_in_plain_python(name):
    found, expected = of(TEXTS[name].encode()), naive(TEXTS[name])
    assert found == pytest.approx(expected)


def test_texts_that_are_measured_together_do_not_touch_each_other():
    texts = [text.encode() for text in (*TEXTS.values(), *(noise(seed) for seed in range(8, 40)))]
    texts += [b"", b"...", b".", b"\xe2\x80\xa6", b"\xa6 \x80\xa6", b'"', b"the\n", b" ", b"the the the the"]
    together = measure(*texts)
    assert together == {name: [of(text)[name] for text in texts] for name in together}


def test_a_text_without_words_has_only_zeros():
    for empty in (b"", b" \n\n\t "):
        assert set(of(empty).values()) == {0}


def test_a_text_that_is_no_utf8_and_holds_no_character_is_measured_too():
    assert (of(b"\x80\x80")["words"], of(b"\x80\x80")["word_length"]) == (1, 0)


def test_an_ellipsis_that_begins_in_another_text_is_none():
    assert measure(b"..", b".. .", b"\xe2\x80", b"\xa6")["symbol_words"] == [0, 0, 0, 0]


def test_statistics_by_hand():
    found = of(b"aa bb\naa bb\n12 the\n")
    assert (found["words"], found["stop_words"]) == (6, 1)
    assert found["word_length"] == pytest.approx(13 / 6)
    assert found["letter_words"] == pytest.approx(5 / 6)
    assert found["digits"] == pytest.approx(2 / 13)
    assert found["repeated_lines"] == pytest.approx(5 / 16)  # lines of 5, 5 and 6 characters, the second stood before
    assert found["top_bigram"] == pytest.approx(2 * 4 / 13)
