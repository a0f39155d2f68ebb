import pydoc
import random
import re
import string
from collections import Counter
from itertools import groupby, pairwise

import pytest

from provenlm.domains.text.filter import text_stats
from provenlm.domains.text.filter.text_stats_kernels import LONG_WORD_LIMIT, SHORT_LINE_LIMIT, STOP_WORDS

WHITE = " \t\n\v\f\r"


def compute(*texts: bytes) -> dict[str, list[float]]:
    stats = text_stats.compute_text_stats(texts)
    return {name: getattr(stats, name).tolist() for name in text_stats.TextStats.__slots__}


def compute_one(text: bytes) -> dict[str, float]:
    return {name: values[0] for name, values in compute(text).items()}


def naive(text: str) -> dict[str, float]:
    """Compute the same statistics in plain Python from their definitions."""
    for sign in WHITE:
        assert sign.isspace()
    words = [word for line in text.splitlines() for word in line.split()] if text.isascii() else text.encode().split()
    words = [word.decode() if isinstance(word, bytes) else word for word in words]
    num_chars = sum(map(len, words))
    lines = [line.strip(WHITE) for line in text.split("\n") if line.strip(WHITE)]
    earlier: set[str] = set()
    dup_chars = 0
    for line in lines:
        dup_chars += len(line) if line in earlier else 0
        earlier.add(line)
    grams = [tuple(words[i : i + 10]) for i in range(len(words) - 9)]
    first = {gram: i for i, gram in reversed(list(enumerate(grams)))}
    covered = {i + k for i, gram in enumerate(grams) if first[gram] < i for k in range(10)}
    pairs = Counter(pairwise(words))
    top = max(pairs.values(), default=0)
    best = next((pair for pair, count in pairs.items() if count == top), ("", ""))  # a Counter is in order of first sight
    return {
        "doc_words": len(words),
        "avg_word_length": num_chars / len(words),
        "alpha_words_ratio": sum(any((c.isascii() and c.isalpha()) or ord(c) > 127 for c in word) for word in words) / len(words),
        "symbol_word_ratio": (text.count("#") + text.count("...") + text.count("…")) / len(words),
        "digit_ratio": sum(c in "0123456789" for c in text) / num_chars,
        "control_char_ratio": sum((ord(c) < 32 and c not in WHITE) or c in "\x7f\ufffd" for c in text) / len(text.encode()),
        "long_word_char_ratio": sum(len(word) for word in words if len(word) > LONG_WORD_LIMIT) / num_chars,
        "short_line_ratio": sum(len(line) <= SHORT_LINE_LIMIT for line in lines) / len(lines),
        "dup_line_char_frac": dup_chars / sum(map(len, lines)),
        "top_2_gram_frac": top * (len(best[0]) + len(best[1])) / num_chars if top > 1 else 0,
        "dup_10_gram_frac": sum(len(words[i]) for i in covered) / num_chars,
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
    duplicates = [block for index, block in enumerate(blocks) if block in blocks[:index]]
    punctuated = [line for line in lines if re.search(r"[.?!][\"']?$", line)]
    sentence_lines = [line for line in punctuated if len(line.encode().split()) >= 3 and not line.endswith("...")]
    return {
        "bullet_line_ratio": sum(line[0] in "-*•" for line in lines) / len(lines),
        "ellipsis_line_ratio": sum(line.endswith(("...", "…")) for line in lines) / len(lines),
        "line_punct_ratio": len(punctuated) / len(lines),
        "new_line_ratio": text.count("\n") / len(words),
        "dup_line_frac": sum(line in lines[:index] for index, line in enumerate(lines)) / len(lines),
        "dup_para_frac": len(duplicates) / len(blocks),
        "dup_para_char_frac": sum(len(line) for block in duplicates for line in block) / sum(map(len, lines)),
        "num_sentences": sum(len(re.findall(r"[.?!][\"']?(?=[ \t\r\v\f]|$)", line)) for line in sentence_lines),
        "num_curly_brackets": text.count("{") + text.count("}"),
        "punctuation_ratio": sum(c in string.punctuation for c in text) / sum(map(len, words)),
        "avg_line_length": sum(map(len, lines)) / len(lines),
        "max_line_length": max(map(len, lines)),
    }


def naive_ngrams(words: list[str]) -> dict[str, float]:
    stats, num_chars = {}, sum(map(len, words))
    for size, name in ((3, "top_3_gram_frac"), (4, "top_4_gram_frac")):
        grams = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
        best, frequency = max(grams.items(), key=lambda item: item[1], default=((), 0))
        stats[name] = frequency * sum(map(len, best)) / num_chars if frequency > 1 else 0
    for size in range(5, 10):
        grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
        covered = {i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(size)}
        stats[f"dup_{size}_gram_frac"] = sum(len(words[i]) for i in covered) / num_chars
    return stats


def noise(seed: int) -> str:
    random_ = random.Random(seed)
    tokens = ["the", "of", "and", "x1", "42", "#", "...", "é", "naïve", "…", "日本", "a" * 70, "\x01", "\ufffd", "cat", "sat"]
    tokens += ["- x", "• y", "end.", 'said."', "what?", "wait...", "{", "a.b", "one two three."]
    return "".join(random_.choice(tokens) + random_.choice([" ", " ", "\n", "\t", "\n\n", "  \r\n"]) for _ in range(400))


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
    stats, expected = compute_one(TEXTS[name].encode()), naive(TEXTS[name])
    assert stats == pytest.approx(expected)


def test_texts_in_one_batch_do_not_influence_each_other():
    texts = [text.encode() for text in (*TEXTS.values(), *(noise(seed) for seed in range(8, 40)))]
    texts += [b"", b"...", b".", b"\xe2\x80\xa6", b"\xa6 \x80\xa6", b'"', b"the\n", b" ", b"the the the the"]
    together = compute(*texts)
    assert together == {name: [compute_one(text)[name] for text in texts] for name in together}


def test_the_statistics_of_a_text_without_words_are_0():
    for empty in (b"", b" \n\n\t "):
        assert set(compute_one(empty).values()) == {0}


def test_a_text_of_continuation_bytes_only_has_statistics():
    assert (compute_one(b"\x80\x80")["doc_words"], compute_one(b"\x80\x80")["avg_word_length"]) == (1, 0)


def test_an_ellipsis_across_two_texts_does_not_count():
    assert compute(b"..", b".. .", b"\xe2\x80", b"\xa6")["symbol_word_ratio"] == [0, 0, 0, 0]


def test_statistics_of_a_text_computed_by_hand():
    stats = compute_one(b"aa bb\naa bb\n12 the\n")
    assert (stats["doc_words"], stats["stop_words"]) == (6, 1)
    assert stats["avg_word_length"] == pytest.approx(13 / 6)
    assert stats["alpha_words_ratio"] == pytest.approx(5 / 6)
    assert stats["digit_ratio"] == pytest.approx(2 / 13)
    assert stats["dup_line_char_frac"] == pytest.approx(5 / 16)  # lines of 5, 5 and 6 characters, the second repeats the first
    assert stats["top_2_gram_frac"] == pytest.approx(2 * 4 / 13)
