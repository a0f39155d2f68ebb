"""Count words, lines and n-grams of texts with compiled kernels.

`provenlm.domains.text.filter.text_stats` defines the statistics.

One pass over the bytes of a text hashes its words, lines and paragraphs. One pass over its words follows for each n-gram length, until
nothing repeats: an n-gram can repeat only if its first n - 1 words do.
"""

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import jit
from provenlm.core.ngram_hashing import BASE, BYTE_HASHES, IS_WHITESPACE, ByteArray, Hashes, hash_words, splitmix64

LONG_WORD_LIMIT = 60  # characters; a longer word is a key, a digest or an encoded blob
SHORT_LINE_LIMIT = 30  # characters; FineWeb, arXiv 2406.17557, section 3.4
MAX_NGRAM = 10  # words of an n-gram
STOP_WORDS = (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")  # Gopher, arXiv 2112.11446, appendix A.1

Int64Array = NDArray[np.int64]
Int32Array = NDArray[np.int32]
# Words, lines and paragraphs, each as hashes and character counts.
TextUnits = tuple[Hashes, Int32Array, Hashes, Int32Array, Hashes, Int32Array]
# n-gram hashes, hash table, first position of each n-gram, its frequency, candidate positions.
NgramScratch = tuple[Hashes, Int32Array, Int32Array, Int32Array, Int32Array]

NUM_COUNTS = 20
WORDS, NON_SPACE_CHARS, ALPHA_WORDS, LONG_WORD_CHARS, DISTINCT_STOP_WORDS, ELLIPSES, REPLACEMENT_CHARS = range(7)
LINES, SHORT_LINES, BULLET_LINES, ELLIPSIS_LINES, PUNCT_LINES, LINE_CHARS, MAX_LINE_CHARS, SENTENCES = range(7, 15)
DUP_LINES, DUP_LINE_CHARS, PARAGRAPHS, DUP_PARAS, DUP_PARA_CHARS = range(15, NUM_COUNTS)

_BASE, _HASH_SHIFT = np.uint64(BASE), np.uint64(20)
_STOP_WORD_HASHES, _MAX_STOP_WORD_BYTES = hash_words(b" ".join(STOP_WORDS)), max(map(len, STOP_WORDS))
_IS_LETTER = np.isin(np.arange(256), [*range(65, 91), *range(97, 123), *range(128, 256)])
_BYTE_CLASS = (IS_WHITESPACE + 2 * _IS_LETTER).astype(np.uint8)  # 1: whitespace, 2: letter


@jit
def _table_size(count: int) -> int:
    """Compute the size of an open-addressing table for `count` keys."""
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@jit
def _slot(key: np.uint64, num_slots: int) -> int:
    return int(key >> _HASH_SHIFT) & (num_slots - 1)


@jit
def _find_slot(table: Int32Array, keys: Hashes, key: np.uint64, num_slots: int) -> int:
    """Find the slot of `key` in an open-addressing `table`.

    The table holds indices into `keys`; -1 is free.
    """
    slot = _slot(key, num_slots)
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & (num_slots - 1)
    return slot


@jit
def _count_duplicates(keys: Hashes, sizes: Int32Array, count: int, table: Int32Array) -> tuple[int, int]:
    """Count the keys that repeat an earlier one, and sum their `sizes`.

    Only the first `count` keys are read.
    """
    num_slots, num_duplicates, num_chars = _table_size(count), 0, 0
    table[:num_slots] = -1
    for index in range(count):
        slot = _find_slot(table, keys, keys[index], num_slots)
        if table[slot] < 0:
            table[slot] = index
        else:
            num_duplicates += 1
            num_chars += sizes[index]
    return num_duplicates, num_chars


@jit
def _candidate_pairs(hashes: Hashes, count: int, scratch: NgramScratch) -> int:
    """Collect the positions of 2-grams that may repeat, with few false ones.

    `marks` is a hash table without keys.
    """
    grams, marks, _, _, candidates = scratch
    num_slots, num_candidates = _table_size(count), 0
    marks[:num_slots] = 0
    for position in range(count - 1):
        grams[position] = hashes[position] * _BASE + hashes[position + 1]
        marks[_slot(grams[position], num_slots)] += 1
    for position in range(count - 1):
        candidates[num_candidates] = position
        num_candidates += marks[_slot(grams[position], num_slots)] > 1
    return num_candidates


@jit
def _count_ngrams(hashes: Hashes, lengths: Int32Array, count: int, scratch: NgramScratch, char_counts: Int64Array) -> None:
    """Add the characters of frequent and repeated n-grams to `char_counts[n]`.

    For n up to 4 those of the most frequent n-gram, above those of repeated n-grams, up to MAX_NGRAM.

    Of equally frequent n-grams the first counts. Words of overlapping n-grams count once (Gopher, arXiv 2112.11446, appendix A.1).
    """
    grams, table, first_position, frequency, candidates = scratch
    num_candidates = _candidate_pairs(hashes, count, scratch)
    for n in range(2, MAX_NGRAM + 1):
        if n > 2:
            num_candidates = _keep_adjacent(candidates, num_candidates)
        if num_candidates < 2:
            return
        num_slots, covered_until = _table_size(num_candidates), 0
        table[:num_slots] = -1
        for index in range(num_candidates):
            position = candidates[index]
            if n > 2:
                grams[position] = grams[position] * _BASE + hashes[position + n - 1]
            slot = _find_slot(table, grams, grams[position], num_slots)
            if table[slot] < 0:
                table[slot] = first_position[position] = position
                frequency[position] = 1
                continue
            first_position[position] = table[slot]
            frequency[table[slot]] += 1
            if n > 4:
                for word in range(max(covered_until, position), position + n):
                    char_counts[n] += lengths[word]
                covered_until = position + n
        best, num_repeated = candidates[0], 0
        for index in range(num_candidates):
            position = candidates[index]
            if first_position[position] == position and frequency[position] > frequency[best]:
                best = position
            candidates[num_repeated] = position
            num_repeated += frequency[first_position[position]] > 1
        if n <= 4 and frequency[best] > 1:
            char_counts[n] = frequency[best] * lengths[best : best + n].sum()
        num_candidates = num_repeated


@jit
def _keep_adjacent(candidates: Int32Array, num_candidates: int) -> int:
    """Keep the candidates whose next position is a candidate too.

    An n-gram repeats only if its first and last n - 1 words do.
    """
    num_adjacent = 0
    for index in range(num_candidates - 1):
        candidates[num_adjacent] = candidates[index]
        num_adjacent += candidates[index + 1] == candidates[index] + 1
    return num_adjacent


@jit
def _ends_sentence(data: ByteArray, begin: int, end: int) -> bool:
    """Return whether the word from `begin` to `end` ends a sentence.

    It does after . ? or !, also before a quotation mark.
    """
    last = data[end - 1]
    if (last == 34 or last == 39) and end - begin > 1:
        last = data[end - 2]
    return bool(last == 46 or last == 63 or last == 33)


@jit
def _ends_with_dots(data: ByteArray, begin: int, end: int) -> bool:
    """Return whether three dots end the word."""
    return bool(end - begin > 2 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46)


@jit
def _has_bytes_before(data: ByteArray, begin: int, end: int, first: int, second: int) -> bool:
    """Return whether `first` and `second` are the two bytes before `end`.

    They must belong to the word that begins at `begin`.
    """
    return bool(end - begin > 1 and data[end - 2] == first and data[end - 1] == second)


@jit
def _count_bytes(data: ByteArray, byte_counts: Int64Array) -> None:
    """Count the occurrences of each byte."""
    for byte in data:
        byte_counts[byte] += 1


@jit
def _scan_text(data: ByteArray, units: TextUnits, counts: Int64Array) -> None:
    """Hash and count the words, lines and paragraphs of a text.

    Word hashes equal those of provenlm.core.ngram_hashing.
    """
    words, lengths, lines, line_sizes, paragraphs, paragraph_sizes = units
    num_words = num_lines = num_paragraphs = max_line_chars = stop_word_bits = dot_run = last_dot = num_alpha_words = num_chars = 0
    word_start, continuation_bytes, word_classes = -1, 0, np.uint8(0)  # of the current word; -1: none
    word_hash, power = np.uint64(0), np.uint64(1)
    line_words = line_chars = inner_sentences = last_word_end = first_word_start = 0  # inner: before the last word of the line
    first_word_end = last_word_start = 0
    ends_sentence = after_blank_line = True
    line_hash, gap_hash, paragraph_hash = np.uint64(0), np.uint64(0), np.uint64(0)
    for position in range(len(data) + 1):
        byte = data[position] if position < len(data) else np.uint8(10)
        byte_class = _BYTE_CLASS[byte]
        if not byte_class & 1:
            if word_start < 0:
                word_start, continuation_bytes, word_classes = position, 0, np.uint8(0)
                word_hash, power = np.uint64(0), np.uint64(1)
            word_classes |= byte_class
            word_hash += BYTE_HASHES[byte] * power
            power *= _BASE
            if byte == 46:
                dot_run = dot_run + 1 if position == last_dot + 1 else 1
                last_dot = position
                counts[ELLIPSES] += dot_run % 3 == 0
            elif byte >= 128:
                continuation_bytes += (byte & 0xC0) == 0x80
                counts[ELLIPSES] += byte == 0xA6 and _has_bytes_before(data, word_start, position, 0xE2, 0x80)
                counts[REPLACEMENT_CHARS] += byte == 0xBD and _has_bytes_before(data, word_start, position, 0xEF, 0xBF)
            continue
        if word_start >= 0:
            word_bytes = position - word_start
            word_chars = word_bytes - continuation_bytes
            word_hash = splitmix64(word_hash + np.uint64(word_bytes))
            words[num_words], lengths[num_words] = word_hash, word_chars
            num_words += 1
            num_chars += word_chars
            num_alpha_words += int(word_classes > 0)
            if word_chars > LONG_WORD_LIMIT:
                counts[LONG_WORD_CHARS] += word_chars
            if word_bytes <= _MAX_STOP_WORD_BYTES:
                for stop in range(len(_STOP_WORD_HASHES)):
                    stop_word_bits |= (_STOP_WORD_HASHES[stop] == word_hash) << stop
            if line_words:
                line_hash = line_hash * _BASE + gap_hash
                line_chars += word_start - last_word_end
                inner_sentences += ends_sentence
            else:
                first_word_start, first_word_end, line_hash, line_chars, inner_sentences = word_start, position, np.uint64(0), 0, 0
            line_hash = line_hash * _BASE + word_hash
            line_chars += word_chars
            line_words += 1
            ends_sentence = _ends_sentence(data, word_start, position)
            last_word_start, last_word_end, gap_hash, word_start = word_start, position, np.uint64(0), -1
        if byte != 10:
            gap_hash = gap_hash * np.uint64(257) + np.uint64(byte)
            continue
        if line_words:
            line_hash = splitmix64(line_hash)
            lines[num_lines], line_sizes[num_lines] = line_hash, line_chars
            num_lines += 1
            ends_with_dots = _ends_with_dots(data, last_word_start, last_word_end)
            counts[LINE_CHARS] += line_chars
            max_line_chars = max(max_line_chars, line_chars)
            counts[SHORT_LINES] += line_chars <= SHORT_LINE_LIMIT
            counts[PUNCT_LINES] += ends_sentence
            counts[ELLIPSIS_LINES] += ends_with_dots or (
                data[last_word_end - 1] == 0xA6 and _has_bytes_before(data, last_word_start, last_word_end - 1, 0xE2, 0x80)
            )
            is_bullet = (
                first_word_end - first_word_start > 2
                and data[first_word_start + 2] == 0xA2
                and _has_bytes_before(data, first_word_start, first_word_start + 2, 0xE2, 0x80)
            )
            counts[BULLET_LINES] += is_bullet or data[first_word_start] == 45 or data[first_word_start] == 42
            counts[SENTENCES] += inner_sentences + 1 if ends_sentence and line_words >= 3 and not ends_with_dots else 0
            if after_blank_line:
                num_paragraphs, after_blank_line, paragraph_hash = num_paragraphs + 1, False, np.uint64(0)
                paragraph_sizes[num_paragraphs - 1] = 0
            paragraph_hash = splitmix64(paragraph_hash * _BASE + line_hash)
            paragraphs[num_paragraphs - 1] = paragraph_hash
            paragraph_sizes[num_paragraphs - 1] += line_chars
        else:
            after_blank_line = True
        line_words, gap_hash = 0, np.uint64(0)
    for stop in range(len(_STOP_WORD_HASHES)):
        counts[DISTINCT_STOP_WORDS] += stop_word_bits >> stop & 1
    counts[WORDS], counts[NON_SPACE_CHARS], counts[ALPHA_WORDS], counts[LINES], counts[PARAGRAPHS] = (
        num_words,
        num_chars,
        num_alpha_words,
        num_lines,
        num_paragraphs,
    )
    counts[MAX_LINE_CHARS] = max_line_chars


@jit
def compute_counts(
    data: ByteArray, offsets: Int64Array, counts: Int64Array, byte_counts: Int64Array, ngram_chars: Int64Array
) -> None:
    """Fill the counts of the texts between `offsets`.

    Shapes: (texts, NUM_COUNTS), (texts, 256) and (texts, MAX_NGRAM + 1).
    """
    max_bytes = 0
    for index in range(len(offsets) - 1):
        max_bytes = max(max_bytes, offsets[index + 1] - offsets[index])
    capacity = max_bytes // 2 + 1
    units = (
        np.empty(capacity, np.uint64),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.uint64),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.uint64),
        np.empty(capacity, np.int32),
    )
    table = np.empty(_table_size(capacity), np.int32)
    scratch = (
        np.empty(capacity, np.uint64),
        table,
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int32),
    )
    for index in range(len(offsets) - 1):
        text_counts = counts[index]
        _count_bytes(data[offsets[index] : offsets[index + 1]], byte_counts[index])
        _scan_text(data[offsets[index] : offsets[index + 1]], units, text_counts)
        text_counts[DUP_LINES], text_counts[DUP_LINE_CHARS] = _count_duplicates(units[2], units[3], text_counts[LINES], table)
        text_counts[DUP_PARAS], text_counts[DUP_PARA_CHARS] = _count_duplicates(units[4], units[5], text_counts[PARAGRAPHS], table)
        _count_ngrams(units[0], units[1], text_counts[WORDS], scratch, ngram_chars[index])
