import random

import numpy as np
import pytest

from provenlm.core import ngram_hashing

TEXTS = [
    b"",
    b" \n\t ",
    b"one",
    b"  the cat\tsat\r\non the\x0bmat the end ",
    "naïve café naïve \u2028 x".encode(),
    b"ab ba aab aba baa ab ba",
    bytes(random.Random(1).choices(b"ab \n", k=5000)),
]


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_of_a_split_at_ascii_whitespace(text):
    assert ngram_hashing.hash_words(text).tolist() == [int(ngram_hashing.hash_words(word)[0]) for word in text.split()]


@pytest.mark.parametrize("text", TEXTS)
def test_equal_words_and_only_they_have_equal_hashes(text):
    hashes = ngram_hashing.hash_words(text).tolist()
    assert [hashes.index(value) for value in hashes] == [text.split().index(word) for word in text.split()]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_equal_windows_and_only_they_have_equal_hashes(size):
    values = random.Random(size).choices(range(3), k=400)
    tuples = [tuple(values[i : i + size]) for i in range(len(values) - size + 1)]
    hashes = ngram_hashing.hash_ngrams(np.array(values, np.uint64), size).tolist()
    assert [hashes.index(value) for value in hashes] == [tuples.index(item) for item in tuples]


def test_fewer_values_than_a_window_are_one_window():
    assert len(ngram_hashing.hash_ngrams(np.array([1, 2], np.uint64), 5)) == 1
    assert len(ngram_hashing.hash_ngrams(np.array([], np.uint64), 5)) == 0


def test_a_hundred_thousand_words_of_three_letters_and_a_digit_have_as_many_hashes():
    words = [
        f"{a}{b}{c}{d}"
        for a in "abcdefghijklmnopqrstuvwxyz"
        for b in "abcdefghijklmnop"
        for c in "abcdefghijklmnopqrstuvwx"
        for d in range(10)
    ]
    assert len(np.unique(ngram_hashing.hash_words(" ".join(words).encode()))) == len(words) == 26 * 16 * 24 * 10


def mixed(value: int) -> int:
    """SplitMix64's finaliser on Python's integers."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_a_hash_is_the_mixed_polynomial_of_its_bytes_wherever_the_word_stands():
    terms = [mixed(byte + 1) * ngram_hashing.BASE**power for power, byte in enumerate(b"the")]
    expected = mixed((sum(terms) + 3) % 2**64)
    assert ngram_hashing.hash_words(b"the cat saw the").tolist()[::3] == [expected, expected]
