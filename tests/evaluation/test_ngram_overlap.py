"""Test overlaps of token sequences against brute force."""

import numpy as np
import pytest

from provenlm.evaluation.ngram_overlap import SuffixArray, overlap_mask, shared_windows, window_ranks

GENERATOR = np.random.default_rng(5)
TEXT = GENERATOR.integers(0, 4, 300)


def longest_by_brute_force(sample, text):
    best = 0
    for first in range(len(sample)):
        for start in range(len(text)):
            n = 0
            while first + n < len(sample) and start + n < len(text) and sample[first + n] == text[start + n]:
                n += 1
            best = max(best, n)
    return best


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_ranks_are_equal_where_windows_are_equal_and_ordered_as_they_are(length):
    windows = [tuple(TEXT[n : n + length]) for n in range(len(TEXT))]
    order = {window: n for n, window in enumerate(sorted(set(windows)))}
    assert window_ranks(TEXT, length).tolist() == [order[window] for window in windows]


def test_a_length_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        window_ranks(TEXT, 6)


@pytest.mark.parametrize("seed", range(8))
def test_the_longest_shared_stretch_is_that_of_brute_force(seed):
    sample = np.random.default_rng(seed).integers(0, 4, 40)
    assert SuffixArray.build(TEXT, 40).longest_match(sample.tolist()) == longest_by_brute_force(sample, TEXT)


def test_a_stretch_copied_out_of_the_middle_is_found():
    sample = [9, 9, *TEXT[100:130].tolist(), 9]
    assert SuffixArray.build(TEXT, 40).longest_match(sample) == 30


def test_a_stretch_that_ends_the_text_is_found():
    assert SuffixArray.build(TEXT, 16).longest_match([9, *TEXT[-10:].tolist(), 9]) == 10


def test_tokens_beyond_one_byte_are_compared_whole():
    text = np.array([1, 256, 65536, 70000, 3], np.uint32)
    assert SuffixArray.build(text, 4).longest_match([7, 256, 65536, 70000, 4]) == 3
    assert SuffixArray.build(text, 4).longest_match([0, 0, 1]) == 1


def test_sequences_without_common_tokens_have_no_match():
    assert SuffixArray.build(TEXT, 8).longest_match([7, 8, 9]) == 0


def test_windows_that_occur_in_the_other_text_are_marked():
    ids = np.concatenate([[8, 8, 8], TEXT[50:60], [8, 8]])
    assert np.flatnonzero(shared_windows(ids, TEXT, 8)).tolist() == [3, 4, 5]


def test_a_window_across_the_end_of_the_other_text_is_not_there():
    ids = np.array([1, 2, 3, 4, 5])
    assert shared_windows(ids, np.array([1, 2, 3]), 4).tolist() == [False, False]
    assert shared_windows(np.array([4, 1]), np.array([9, 4]), 2).tolist() == [False]


def test_a_text_shorter_than_a_window_has_none():
    assert len(shared_windows(np.array([1, 2]), TEXT, 4)) == 0


def test_every_token_of_a_repeated_window_is_covered_and_no_other():
    ids = np.concatenate([[8, 8, 8], TEXT[50:60], [8, 8], TEXT[7:15], [8]])
    expected = [False] * 3 + [True] * 10 + [False] * 2 + [True] * 8 + [False]
    assert overlap_mask(ids, TEXT, 8).tolist() == expected


def test_nothing_is_covered_by_windows_longer_than_the_text():
    assert overlap_mask(np.array([1, 2]), TEXT, 4).tolist() == [False, False]
