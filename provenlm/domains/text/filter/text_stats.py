"""Compute the text statistics that filters use.

A word is a run without ASCII whitespace. A line counts if it contains a word. Lengths are in characters. Bytes above 127 count as
letters, which is correct for the alphabets of most languages and wrong for typographic signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenlm.domains.text.filter import text_stats_kernels
from provenlm.domains.text.filter.text_stats_kernels import MAX_NGRAM, NUM_COUNTS

StatColumn = NDArray[np.float64]

IS_DIGIT = np.isin(np.arange(256), np.frombuffer(b"0123456789", np.uint8))
IS_PUNCTUATION = np.isin(np.arange(256), [*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)])
IS_CONTROL = np.isin(np.arange(256), [*set(range(32)) - set(b"\t\n\v\f\r"), 127])


@dataclass(frozen=True, slots=True)
class TextStats:
    """Hold statistics of texts, one array (texts,) each.

    A ratio or fraction is 0 for a text without words. Whitespace does not count.
    """

    doc_words: StatColumn
    avg_word_length: StatColumn  # mean characters of a word
    alpha_words_ratio: StatColumn  # fraction of words with a letter
    symbol_word_ratio: StatColumn  # number signs and ellipses per word
    digit_ratio: StatColumn  # fraction of characters
    control_char_ratio: StatColumn  # control characters and replacement characters per byte
    long_word_char_ratio: StatColumn  # fraction of characters in words longer than LONG_WORD_LIMIT
    short_line_ratio: StatColumn  # fraction of lines of at most SHORT_LINE_LIMIT characters
    dup_line_char_frac: StatColumn  # fraction of line characters in lines that repeat an earlier one
    top_2_gram_frac: StatColumn  # fraction of characters in the most frequent 2-gram of words
    dup_10_gram_frac: StatColumn  # fraction of characters in repeated 10-grams; each word counts once
    stop_words: StatColumn  # number of distinct STOP_WORDS
    bullet_line_ratio: StatColumn  # fraction of lines that begin with -, * or a bullet
    ellipsis_line_ratio: StatColumn  # fraction of lines that end in an ellipsis
    line_punct_ratio: StatColumn  # fraction of lines that end in . ? ! or a quotation mark after one
    new_line_ratio: StatColumn  # line feeds per word
    dup_line_frac: StatColumn  # fraction of lines that repeat an earlier one
    dup_para_frac: StatColumn  # fraction of paragraphs (lines up to a blank one) that repeat an earlier one
    dup_para_char_frac: StatColumn  # fraction of line characters in paragraphs that repeat an earlier one
    top_3_gram_frac: StatColumn
    top_4_gram_frac: StatColumn
    dup_5_gram_frac: StatColumn
    dup_6_gram_frac: StatColumn
    dup_7_gram_frac: StatColumn
    dup_8_gram_frac: StatColumn
    dup_9_gram_frac: StatColumn
    num_sentences: (
        StatColumn  # sentence ends (. ? ! before whitespace or a quotation mark) in lines of 3 or more words that end in one
    )
    num_curly_brackets: StatColumn  # number of { and }
    punctuation_ratio: StatColumn  # fraction of characters that are ASCII punctuation
    avg_line_length: StatColumn  # mean characters of a line
    max_line_length: StatColumn


def compute_text_stats(texts: Sequence[bytes]) -> TextStats:
    """Compute the statistics of `texts`, arrays (texts,) in their order."""
    offsets, num_texts = np.cumsum([0, *map(len, texts)]), len(texts)
    counts, byte_counts, ngram_chars = (np.zeros((num_texts, size), np.int64) for size in (NUM_COUNTS, 256, MAX_NGRAM + 1))
    text_stats_kernels.compute_counts(np.frombuffer(b"".join(texts), np.uint8), offsets, counts, byte_counts, ngram_chars)
    has_words = counts[:, text_stats_kernels.WORDS] > 0

    def ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> StatColumn:
        quotient: StatColumn = np.where(has_words, numerator, 0) / np.maximum(1, denominator)
        return quotient

    words, num_chars, lines, line_chars, paragraphs = (
        counts[:, column]
        for column in (
            text_stats_kernels.WORDS,
            text_stats_kernels.NON_SPACE_CHARS,
            text_stats_kernels.LINES,
            text_stats_kernels.LINE_CHARS,
            text_stats_kernels.PARAGRAPHS,
        )
    )
    symbols = byte_counts[:, ord("#")] + counts[:, text_stats_kernels.ELLIPSES]
    return TextStats(
        doc_words=words.astype(np.float64),
        avg_word_length=ratio(num_chars, words),
        alpha_words_ratio=ratio(counts[:, text_stats_kernels.ALPHA_WORDS], words),
        symbol_word_ratio=ratio(symbols, words),
        digit_ratio=ratio(byte_counts[:, IS_DIGIT].sum(1), num_chars),
        control_char_ratio=ratio(
            byte_counts[:, IS_CONTROL].sum(1) + counts[:, text_stats_kernels.REPLACEMENT_CHARS], np.diff(offsets)
        ),
        long_word_char_ratio=ratio(counts[:, text_stats_kernels.LONG_WORD_CHARS], num_chars),
        short_line_ratio=ratio(counts[:, text_stats_kernels.SHORT_LINES], lines),
        dup_line_char_frac=ratio(counts[:, text_stats_kernels.DUP_LINE_CHARS], line_chars),
        top_2_gram_frac=ratio(ngram_chars[:, 2], num_chars),
        dup_10_gram_frac=ratio(ngram_chars[:, MAX_NGRAM], num_chars),
        stop_words=counts[:, text_stats_kernels.DISTINCT_STOP_WORDS].astype(np.float64),
        bullet_line_ratio=ratio(counts[:, text_stats_kernels.BULLET_LINES], lines),
        ellipsis_line_ratio=ratio(counts[:, text_stats_kernels.ELLIPSIS_LINES], lines),
        line_punct_ratio=ratio(counts[:, text_stats_kernels.PUNCT_LINES], lines),
        new_line_ratio=ratio(byte_counts[:, 10], words),
        dup_line_frac=ratio(counts[:, text_stats_kernels.DUP_LINES], lines),
        dup_para_frac=ratio(counts[:, text_stats_kernels.DUP_PARAS], paragraphs),
        dup_para_char_frac=ratio(counts[:, text_stats_kernels.DUP_PARA_CHARS], line_chars),
        top_3_gram_frac=ratio(ngram_chars[:, 3], num_chars),
        top_4_gram_frac=ratio(ngram_chars[:, 4], num_chars),
        dup_5_gram_frac=ratio(ngram_chars[:, 5], num_chars),
        dup_6_gram_frac=ratio(ngram_chars[:, 6], num_chars),
        dup_7_gram_frac=ratio(ngram_chars[:, 7], num_chars),
        dup_8_gram_frac=ratio(ngram_chars[:, 8], num_chars),
        dup_9_gram_frac=ratio(ngram_chars[:, 9], num_chars),
        num_sentences=counts[:, text_stats_kernels.SENTENCES].astype(np.float64),
        num_curly_brackets=(byte_counts[:, ord("{")] + byte_counts[:, ord("}")]).astype(np.float64),
        punctuation_ratio=ratio(byte_counts[:, IS_PUNCTUATION].sum(1), num_chars),
        avg_line_length=ratio(line_chars, lines),
        max_line_length=counts[:, text_stats_kernels.MAX_LINE_CHARS].astype(np.float64),
    )
