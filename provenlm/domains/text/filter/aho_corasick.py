"""Search a text for many byte patterns at once with an Aho-Corasick automaton.

It decides which regular expressions can match at all, at a fraction of their cost.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import jit
from provenlm.core.ngram_hashing import ByteArray


class AhoCorasick(NamedTuple):
    """Hold the automaton of Aho and Corasick (1975).

    transitions: next state by state and byte. outputs: the patterns that end in each state, as bits.
    """

    patterns: tuple[bytes, ...]
    transitions: NDArray[np.int32]
    outputs: NDArray[np.uint64]


def build_automaton(patterns: Sequence[bytes]) -> AhoCorasick:
    """Build the automaton of at most 64 non-empty patterns."""
    size = 1 + sum(map(len, patterns))
    transitions, outputs, num_states = np.full((size, 256), -1, np.int32), np.zeros(size, np.uint64), 1
    for bit, pattern in enumerate(patterns):
        state = 0
        for byte in pattern:
            if transitions[state, byte] < 0:
                transitions[state, byte], num_states = num_states, num_states + 1
            state = int(transitions[state, byte])
        outputs[state] |= np.uint64(1 << bit)
    failure_links, queue = np.zeros(size, np.int32), deque([0])
    while queue:
        state = queue.popleft()
        for byte in range(256):
            next_state, fallback = int(transitions[state, byte]), int(transitions[failure_links[state], byte]) if state else 0
            if next_state < 0:
                transitions[state, byte] = fallback
            else:
                failure_links[next_state] = fallback
                outputs[next_state] |= outputs[fallback]
                queue.append(next_state)
    return AhoCorasick(tuple(patterns), transitions[:num_states], outputs[:num_states])


def contained_patterns(text: bytes, matcher: AhoCorasick) -> set[bytes]:
    """Return the patterns that occur in `text`."""
    bits = int(_match_bits(np.frombuffer(text, np.uint8), matcher.transitions, matcher.outputs))
    return {pattern for bit, pattern in enumerate(matcher.patterns) if bits >> bit & 1}


@jit
def _match_bits(text: ByteArray, transitions: NDArray[np.int32], outputs: NDArray[np.uint64]) -> np.uint64:
    state, bits = np.int32(0), np.uint64(0)
    for byte in text:
        state = transitions[state, byte]
        bits |= outputs[state]
    return bits


def find_all(text: bytes, pattern: bytes) -> Iterator[int]:
    """Yield the positions of `pattern` in `text`, overlapping ones included."""
    position = text.find(pattern)
    while position >= 0:
        yield position
        position = text.find(pattern, position + 1)


def ipv4_candidates(text: bytes) -> list[int]:
    """Return the positions at which an IPv4 address may start.

    They are dots between two digits that another such dot follows within four bytes.
    """
    positions: list[int] = _ipv4_candidates(np.frombuffer(text, np.uint8)).tolist()
    return positions


@jit
def _ipv4_candidates(text: ByteArray) -> NDArray[np.int64]:
    positions, count, last_dot = np.empty(len(text) // 2 + 1, np.int64), 0, -9
    for index in range(1, len(text) - 1):
        if text[index] == 46 and 48 <= text[index - 1] <= 57 and 48 <= text[index + 1] <= 57:
            positions[count] = last_dot
            count += index - last_dot <= 4
            last_dot = index
    return positions[:count]


def email_candidates(text: bytes) -> list[int]:
    """Return the positions of `@` between a local part and a domain with a dot."""
    positions: list[int] = _email_candidates(np.frombuffer(text, np.uint8), _IS_LOCAL, _IS_DOMAIN).tolist()
    return positions


_IS_DOMAIN = np.isin(np.arange(256), np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-", np.uint8))
_IS_LOCAL = _IS_DOMAIN | np.isin(np.arange(256), np.frombuffer(b"_%+", np.uint8))
_MAX_DOMAIN_BYTES = 254


@jit
def _email_candidates(text: ByteArray, is_local: NDArray[np.bool_], is_domain: NDArray[np.bool_]) -> NDArray[np.int64]:
    positions, count = np.empty(len(text) // 2 + 1, np.int64), 0
    for index in range(1, len(text) - 1):
        if text[index] != 64 or not is_local[text[index - 1]]:
            continue
        for after in range(index + 1, min(len(text), index + _MAX_DOMAIN_BYTES)):
            if not is_domain[text[after]]:
                break
            if text[after] == 46:
                positions[count] = index
                count += 1
                break
    return positions[:count]


def phone_candidates(text: bytes) -> list[int]:
    """Return the positions at which a national phone number may start.

    They are the starts of 9 to 15 digits in at least two groups that one or two of the signs ` ().-/` separate.
    """
    positions: list[int] = _phone_candidates(np.frombuffer(text, np.uint8)).tolist()
    return positions


@jit
def _phone_candidates(text: ByteArray) -> NDArray[np.int64]:
    positions, count = np.empty(len(text) // 9 + 1, np.int64), 0
    start, last_digit, num_digits, num_groups = 0, -9, 0, 0
    for index in range(len(text) + 1):
        byte = text[index] if index < len(text) else np.uint8(10)
        if 48 <= byte <= 57:
            if num_digits == 0:
                start = index - 1 if index > 0 and text[index - 1] == 40 else index
            num_groups += index != last_digit + 1
            num_digits += 1
            last_digit = index
        elif num_digits and (index > last_digit + 2 or not (byte == 32 or byte == 40 or byte == 41 or 45 <= byte <= 47)):
            if 9 <= num_digits <= 15 and num_groups > 1:
                positions[count] = start
                count += 1
            num_digits = num_groups = 0
    return positions[:count]
