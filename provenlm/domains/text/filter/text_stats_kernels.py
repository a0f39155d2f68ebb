"""The bytes of many texts in, what is counted in each out, as machine code: what the numbers mean stands in provenlm.domains.text.filter.text_stats.

One pass over the bytes of a text gives its words, lines and paragraphs as hashes; one more over its words a length of n-gram, which
ends where nothing repeats: a run of n words stood before only if its first n - 1 did.
"""

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import compiled
from provenlm.core.ngram_hashing import BASE, BYTES, WHITESPACE, Bytes, Hashes, mixed, words

LONG_WORD = 60  # characters; a longer word is a key, a digest or an encoded blob
SHORT_LINE = 30  # characters; FineWeb, arXiv 2406.17557, section 3.4
LONGEST = 10  # words of an n-gram
STOP_WORDS = (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")  # Gopher, arXiv 2112.11446, appendix A.1

Places = NDArray[np.int64]
Numbers = NDArray[np.int32]
Found = tuple[Hashes, Numbers, Hashes, Numbers, Hashes, Numbers]  # words, lines and paragraphs, each with its characters
Scratch = tuple[
    Hashes, Numbers, Numbers, Numbers, Numbers
]  # n-grams, their table, the first place of each, its count, what may repeat

COUNTS = 20
WORDS, SOLID, LETTERED, LONG, STOPS, ELLIPSES, REPLACEMENTS = range(7)
LINES, SHORT, BULLETS, TRAILING, ENDED, LINE_CHARACTERS, LONGEST_LINE, SENTENCES = range(7, 15)
LINES_AGAIN, LINE_CHARACTERS_AGAIN, PARAGRAPHS, PARAGRAPHS_AGAIN, PARAGRAPH_CHARACTERS_AGAIN = range(15, COUNTS)

_BASE, _HIGH = np.uint64(BASE), np.uint64(20)
_STOPS, _LONGEST_STOP = words(b" ".join(STOP_WORDS)), max(map(len, STOP_WORDS))
_LETTER = np.isin(np.arange(256), [*range(65, 91), *range(97, 123), *range(128, 256)])
_KIND = (WHITESPACE + 2 * _LETTER).astype(np.uint8)  # one look into one table says whether a byte is whitespace (1) or a letter (2)


@compiled
def _room(count: int) -> int:
    """The size of an open table for `count` keys."""
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@compiled
def _slot(key: np.uint64, room: int) -> int:
    return int(key >> _HIGH) & (room - 1)


@compiled
def _place(table: Numbers, keys: Hashes, key: np.uint64, room: int) -> int:
    """Where in the open `table` of places in `keys` (-1: free) `key` stands or belongs."""
    slot = _slot(key, room)
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & (room - 1)
    return slot


@compiled
def _again(keys: Hashes, sizes: Numbers, count: int, table: Numbers) -> tuple[int, int]:
    """How many of the first `count` of `keys` stood before, and the sum of their `sizes`."""
    room, again, characters = _room(count), 0, 0
    table[:room] = -1
    for place in range(count):
        slot = _place(table, keys, keys[place], room)
        if table[slot] < 0:
            table[slot] = place
        else:
            again += 1
            characters += sizes[place]
    return again, characters


@compiled
def _pairs(hashes: Hashes, count: int, scratch: Scratch) -> int:
    """Into `alive` the places of pairs of words that may stand twice, and few others: by marks, which are a table without keys."""
    grams, marks, _, _, alive = scratch
    room, many = _room(count), 0
    marks[:room] = 0
    for place in range(count - 1):
        grams[place] = hashes[place] * _BASE + hashes[place + 1]
        marks[_slot(grams[place], room)] += 1
    for place in range(count - 1):
        alive[many] = place
        many += marks[_slot(grams[place], room)] > 1
    return many


@compiled
def _ngrams(hashes: Hashes, lengths: Numbers, count: int, scratch: Scratch, found: Places) -> None:
    """For n from 2 to LONGEST, `found[n]`: up to 4 the characters in the most frequent n-gram, from 5 on in n-grams that stood before.

    Of equally frequent ones the first counts. Words of overlapping n-grams count once (Gopher, arXiv 2112.11446, appendix A.1).
    """
    grams, table, first, times, alive = scratch
    many = _pairs(hashes, count, scratch)
    for n in range(2, LONGEST + 1):
        if n > 2:
            many = _followed(alive, many)
        if many < 2:
            return
        room, covered = _room(many), 0
        table[:room] = -1
        for nth in range(many):
            place = alive[nth]
            if n > 2:
                grams[place] = grams[place] * _BASE + hashes[place + n - 1]
            slot = _place(table, grams, grams[place], room)
            if table[slot] < 0:
                table[slot] = first[place] = place
                times[place] = 1
                continue
            first[place] = table[slot]
            times[table[slot]] += 1
            if n > 4:
                for word in range(max(covered, place), place + n):
                    found[n] += lengths[word]
                covered = place + n
        best, still = alive[0], 0
        for nth in range(many):
            place = alive[nth]
            if first[place] == place and times[place] > times[best]:
                best = place
            alive[still] = place
            still += times[first[place]] > 1
        if n <= 4 and times[best] > 1:
            found[n] = times[best] * lengths[best : best + n].sum()
        many = still


@compiled
def _followed(alive: Numbers, many: int) -> int:
    """Keep of the places in `alive` those whose neighbour is there too: n words stand twice only if their first and last n - 1 do."""
    kept = 0
    for nth in range(many - 1):
        alive[kept] = alive[nth]
        kept += alive[nth + 1] == alive[nth] + 1
    return kept


@compiled
def _ends(data: Bytes, begin: int, end: int) -> bool:
    """Whether a sentence ends with the word from `begin` to `end`: . ? or !, or a quotation mark behind one."""
    last = data[end - 1]
    if (last == 34 or last == 39) and end - begin > 1:
        last = data[end - 2]
    return bool(last == 46 or last == 63 or last == 33)


@compiled
def _dots(data: Bytes, begin: int, end: int) -> bool:
    """Whether three dots end the word."""
    return bool(end - begin > 2 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46)


@compiled
def _sign(data: Bytes, begin: int, end: int, first: int, second: int) -> bool:
    """Whether the word that begins at `begin` has those two bytes before `end`."""
    return bool(end - begin > 1 and data[end - 2] == first and data[end - 1] == second)


@compiled
def _bytes(data: Bytes, often: Places) -> None:
    """How often each byte stands."""
    for byte in data:
        often[byte] += 1


@compiled
def _read(data: Bytes, found: Found, raw: Places) -> None:
    """Words, lines and paragraphs of a text, and what is counted in them. The hash of a word is that of provenlm.core.ngram_hashing."""
    words, lengths, lines, line_sizes, paragraphs, paragraph_sizes = found
    count = line = paragraph = longest = seen = run = last_dot = lettered = solid = 0
    begin, beyond, letters = -1, 0, np.uint8(0)  # of the word under way, -1: none; its continuation bytes
    value, power = np.uint64(0), np.uint64(1)
    inside = characters = inner = tail = first = (
        0  # of this line: words, characters, sentences before its last word; where that ends
    )
    first_end = last = 0
    ends = blank = True
    key, gap, whole = np.uint64(0), np.uint64(0), np.uint64(0)
    for place in range(len(data) + 1):
        byte = data[place] if place < len(data) else np.uint8(10)
        kind = _KIND[byte]
        if not kind & 1:
            if begin < 0:
                begin, beyond, letters = place, 0, np.uint8(0)
                value, power = np.uint64(0), np.uint64(1)
            letters |= kind
            value += BYTES[byte] * power
            power *= _BASE
            if byte == 46:
                run = run + 1 if place == last_dot + 1 else 1
                last_dot = place
                raw[ELLIPSES] += run % 3 == 0
            elif byte >= 128:
                beyond += (byte & 0xC0) == 0x80
                raw[ELLIPSES] += byte == 0xA6 and _sign(data, begin, place, 0xE2, 0x80)
                raw[REPLACEMENTS] += byte == 0xBD and _sign(data, begin, place, 0xEF, 0xBF)
            continue
        if begin >= 0:
            size = place - begin
            length = size - beyond
            value = mixed(value + np.uint64(size))
            words[count], lengths[count] = value, length
            count += 1
            solid += length
            lettered += int(letters > 0)
            if length > LONG_WORD:
                raw[LONG] += length
            if size <= _LONGEST_STOP:
                for stop in range(len(_STOPS)):
                    seen |= (_STOPS[stop] == value) << stop
            if inside:
                key = key * _BASE + gap
                characters += begin - tail
                inner += ends
            else:
                first, first_end, key, characters, inner = begin, place, np.uint64(0), 0, 0
            key = key * _BASE + value
            characters += length
            inside += 1
            ends = _ends(data, begin, place)
            last, tail, gap, begin = begin, place, np.uint64(0), -1
        if byte != 10:
            gap = gap * np.uint64(257) + np.uint64(byte)
            continue
        if inside:
            key = mixed(key)
            lines[line], line_sizes[line] = key, characters
            line += 1
            dots = _dots(data, last, tail)
            raw[LINE_CHARACTERS] += characters
            longest = max(longest, characters)
            raw[SHORT] += characters <= SHORT_LINE
            raw[ENDED] += ends
            raw[TRAILING] += dots or (data[tail - 1] == 0xA6 and _sign(data, last, tail - 1, 0xE2, 0x80))
            bullet = first_end - first > 2 and data[first + 2] == 0xA2 and _sign(data, first, first + 2, 0xE2, 0x80)
            raw[BULLETS] += bullet or data[first] == 45 or data[first] == 42
            raw[SENTENCES] += inner + 1 if ends and inside >= 3 and not dots else 0
            if blank:
                paragraph, blank, whole = paragraph + 1, False, np.uint64(0)
                paragraph_sizes[paragraph - 1] = 0
            whole = mixed(whole * _BASE + key)
            paragraphs[paragraph - 1] = whole
            paragraph_sizes[paragraph - 1] += characters
        else:
            blank = True
        inside, gap = 0, np.uint64(0)
    for stop in range(len(_STOPS)):
        raw[STOPS] += seen >> stop & 1
    raw[WORDS], raw[SOLID], raw[LETTERED], raw[LINES], raw[PARAGRAPHS] = count, solid, lettered, line, paragraph
    raw[LONGEST_LINE] = longest


@compiled
def count(data: Bytes, offsets: Places, raw: Places, often: Places, grams: Places) -> None:
    """For each of the texts between `offsets`: `raw` COUNTS, `often` each byte stands in it, and `grams` as `_ngrams` finds them."""
    longest = 0
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    room = longest // 2 + 1
    found = (
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
    )
    table = np.empty(_room(room), np.int32)
    scratch = (np.empty(room, np.uint64), table, np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32))
    for text in range(len(offsets) - 1):
        of = raw[text]
        _bytes(data[offsets[text] : offsets[text + 1]], often[text])
        _read(data[offsets[text] : offsets[text + 1]], found, of)
        of[LINES_AGAIN], of[LINE_CHARACTERS_AGAIN] = _again(found[2], found[3], of[LINES], table)
        of[PARAGRAPHS_AGAIN], of[PARAGRAPH_CHARACTERS_AGAIN] = _again(found[4], found[5], of[PARAGRAPHS], table)
        _ngrams(found[0], found[1], of[WORDS], scratch, grams[text])
