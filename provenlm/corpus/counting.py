"""The bytes of a text in, its statistics out, as machine code: what each number means stands in provenlm.corpus.statistics."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from provenlm.corpus.compiled import compiled
from provenlm.corpus.hashing import BASE, BYTES, WHITESPACE, Bytes, Hashes, mixed

LONG_WORD = 60  # characters; a longer word is a key, a digest or an encoded blob
SHORT_LINE = 30  # characters; FineWeb, arXiv 2406.17557, section 3.4
LONGEST = 10  # words of an n-gram
NUMBERS = 31  # of a text

Places = NDArray[np.int64]

_BASE, _EMPTY = np.uint64(BASE), np.uint64(0)


def _table(characters: Sequence[int]) -> NDArray[np.bool_]:
    return np.isin(np.arange(256), np.array(list(characters)))


LETTER = _table([*range(65, 91), *range(97, 123), *range(128, 256)])
PUNCTUATION = _table([*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)])
CONTROL = _table([*set(range(32)) - set(b"\t\n\v\f\r"), 127])


@compiled
def _slot(table: Places, keys: Hashes, key: np.uint64) -> int:
    """Where in the open `table` of places in `keys` (-1: free) `key` stands or belongs."""
    mask = len(table) - 1
    place = int(np.int64(key) & mask)
    while table[place] >= 0 and keys[table[place]] != key:
        place = (place + 1) & mask
    return place


@compiled
def _room(count: int) -> int:
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@compiled
def _before(keys: Hashes) -> NDArray[np.bool_]:
    """For each of `keys`, whether it stood before."""
    table, found = np.full(_room(len(keys)), np.int64(-1)), np.zeros(len(keys), np.bool_)
    for place in range(len(keys)):
        slot = _slot(table, keys, keys[place])
        found[place] = table[slot] >= 0
        if table[slot] < 0:
            table[slot] = place
    return found


@compiled
def _share_before(keys: Hashes, lengths: Places) -> tuple[float, float]:
    """Of `keys` those that stood before: their share, and their share of `lengths`."""
    again, characters = _before(keys), 0
    for place in range(len(keys)):
        if again[place]:
            characters += lengths[place]
    whole = max(1, lengths.sum())
    return again.sum() / max(1, len(keys)), characters / whole


@compiled
def _ngrams(hashes: Hashes, lengths: Places, found: NDArray[np.float64]) -> None:
    """For n from 2 to LONGEST, `found[n]`: up to 4 the characters in the most frequent n-gram, from 5 on in n-grams that stood before.

    Of equally frequent ones the first counts. Words of overlapping n-grams count once (Gopher, arXiv 2112.11446, appendix A.1).
    """
    grams, size = hashes.copy(), _room(len(hashes))
    table, counts = np.empty(size, np.int64), np.empty(len(hashes), np.int64)
    for n in range(2, LONGEST + 1):
        grams = grams[: len(hashes) - n + 1]
        table[:] = -1
        counts[:] = 0
        covered = characters = 0
        for place in range(len(grams)):
            grams[place] = mixed(grams[place] * _BASE + hashes[place + n - 1])
            slot = _slot(table, grams, grams[place])
            if table[slot] < 0:
                table[slot] = place
            elif n > 4:
                for word in range(max(covered, place), place + n):
                    characters += lengths[word]
                covered = place + n
            counts[table[slot]] += 1
        if n <= 4 and len(grams):
            best = 0
            for place in range(len(grams)):
                if counts[place] > counts[best]:
                    best = place
            if counts[best] > 1:
                characters = counts[best] * lengths[best : best + n].sum()
        found[n] = characters


@compiled
def _words(data: Bytes) -> tuple[Hashes, Places, int]:
    """Of each word its hash and its characters; and how many words hold a letter."""
    hashes, lengths = np.empty(len(data) // 2 + 1, np.uint64), np.empty(len(data) // 2 + 1, np.int64)
    count = size = characters = lettered = 0
    letter = False
    value, power = np.uint64(0), np.uint64(1)
    for place in range(len(data) + 1):
        if place == len(data) or WHITESPACE[data[place]]:
            if size:
                hashes[count] = mixed(value + np.uint64(size))
                lengths[count] = characters
                count += 1
                lettered += letter
                size = characters = 0
                letter = False
                value, power = np.uint64(0), np.uint64(1)
        else:
            value += BYTES[data[place]] * power
            power *= _BASE
            size += 1
            characters += (data[place] & 0xC0) != 0x80
            letter |= LETTER[data[place]]
    return hashes[:count], lengths[:count], lettered


@compiled
def _bytes(data: Bytes, found: NDArray[np.float64]) -> None:
    """`found`: digits, punctuation, control and replacement characters, number signs and ellipses, braces, line feeds."""
    digits = punctuation = control = signs = braces = feeds = dots = 0
    for place in range(len(data)):
        byte = data[place]
        digits += 48 <= byte <= 57
        punctuation += PUNCTUATION[byte]
        control += CONTROL[byte]
        signs += byte == 35
        braces += byte == 123 or byte == 125
        feeds += byte == 10
        dots = dots + 1 if byte == 46 else 0
        signs += dots > 0 and dots % 3 == 0
        if place >= 2 and data[place - 1] == 0x80 and data[place - 2] == 0xE2:
            signs += byte == 0xA6
        if place >= 2 and data[place - 1] == 0xBF and data[place - 2] == 0xEF:
            control += byte == 0xBD
    found[0], found[1], found[2], found[3], found[4], found[5] = digits, punctuation, control, signs, braces, feeds


@compiled
def _ends(data: Bytes, last: int) -> bool:
    """Whether a sentence ends with the byte at `last`: . ? or !, or a quotation mark behind one."""
    quote = data[last] == 34 or data[last] == 39
    if quote and last > 0:
        last -= 1
    return bool(data[last] == 46 or data[last] == 63 or data[last] == 33)


@compiled
def _lines(data: Bytes, found: NDArray[np.float64]) -> None:
    """`found`: lines, short, with a bullet, with an ellipsis, ended ones, their characters, the longest, sentences, and what repeats."""
    keys, lengths = np.empty(len(data) // 2 + 1, np.uint64), np.empty(len(data) // 2 + 1, np.int64)
    blocks, sizes = np.empty(len(data) // 2 + 1, np.uint64), np.zeros(len(data) // 2 + 1, np.int64)
    lines = paragraphs = short = bullets = ellipses = ended = longest = sentences = 0
    begin, block = 0, _EMPTY
    for place in range(len(data) + 1):
        if place < len(data) and data[place] != 10:
            continue
        first, last = begin, place - 1
        while first <= last and WHITESPACE[data[first]]:
            first += 1
        while last >= first and WHITESPACE[data[last]]:
            last -= 1
        if first <= last:
            value, power, characters, words, stops = np.uint64(0), np.uint64(1), 0, 1, 0
            for at in range(first, last + 1):
                value += BYTES[data[at]] * power
                power *= _BASE
                characters += (data[at] & 0xC0) != 0x80
                gap = WHITESPACE[data[at]]
                words += gap and not WHITESPACE[data[at + 1]]
                stops += gap and not WHITESPACE[data[at - 1]] and _ends(data, at - 1)
            keys[lines] = mixed(value + np.uint64(last + 1 - first))
            lengths[lines] = characters
            longest = max(longest, characters)
            short += characters <= SHORT_LINE
            ends = _ends(data, last)
            ended += ends
            dotted = last - first >= 2 and data[last] == 46 and data[last - 1] == 46 and data[last - 2] == 46
            ellipses += dotted or (last - first >= 2 and data[last] == 0xA6 and data[last - 1] == 0x80 and data[last - 2] == 0xE2)
            round_ = last - first >= 2 and data[first] == 0xE2 and data[first + 1] == 0x80 and data[first + 2] == 0xA2
            bullets += data[first] == 45 or data[first] == 42 or round_
            if ends and words >= 3 and not dotted:
                sentences += stops + 1
            block = mixed(block * _BASE + keys[lines])
            sizes[paragraphs] += characters
            lines += 1
        if block != _EMPTY and (first > last or place == len(data)):
            blocks[paragraphs] = block
            paragraphs, block = paragraphs + 1, _EMPTY
        begin = place + 1
    found[0], found[1], found[2], found[3], found[4] = lines, short, bullets, ellipses, ended
    found[5], found[6], found[7] = lengths[:lines].sum(), longest, sentences
    found[8], found[9] = _share_before(keys[:lines], lengths[:lines])
    found[10], found[11] = _share_before(blocks[:paragraphs], sizes[:paragraphs])


@compiled
def count(data: Bytes, stops: Hashes) -> NDArray[np.float64]:
    """All numbers of a text, float64 (NUMBERS,), in the order of `Statistics`."""
    numbers, raw, line, grams = np.zeros(NUMBERS), np.zeros(6), np.zeros(12), np.zeros(LONGEST + 1)
    _bytes(data, raw)
    numbers[5] = raw[2] / max(1, len(data))
    hashes, lengths, lettered = _words(data)
    words = len(hashes)
    if words == 0:
        return numbers
    _lines(data, line)
    _ngrams(hashes, lengths, grams)
    solid, lines, long = lengths.sum(), line[0], 0
    seen = np.zeros(len(stops), np.bool_)
    for place in range(words):
        if lengths[place] > LONG_WORD:
            long += lengths[place]
        for stop in range(len(stops)):
            seen[stop] |= stops[stop] == hashes[place]
    numbers[0], numbers[1], numbers[2], numbers[3], numbers[4] = (
        words,
        solid / words,
        lettered / words,
        raw[3] / words,
        raw[0] / solid,
    )
    numbers[6], numbers[7], numbers[8], numbers[9] = long / solid, line[1] / lines, line[9], grams[2] / solid
    numbers[10], numbers[11], numbers[12], numbers[13] = grams[LONGEST] / solid, seen.sum(), line[2] / lines, line[3] / lines
    numbers[14], numbers[15], numbers[16], numbers[17], numbers[18] = line[4] / lines, raw[5] / words, line[8], line[10], line[11]
    for n in range(3, LONGEST):
        numbers[16 + n] = grams[n] / solid
    numbers[26], numbers[27], numbers[28], numbers[29], numbers[30] = line[7], raw[4], raw[1] / solid, line[5] / lines, line[6]
    return numbers
