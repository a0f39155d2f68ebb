"""A text and a few short literals in; out, which of them it holds and where: what costs less than the expressions that they stand in."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import compiled
from provenlm.core.ngram_hashing import Bytes


class Automaton(NamedTuple):
    """States by byte, and the literals that end in each as bits (Aho and Corasick 1975)."""

    literals: tuple[bytes, ...]
    move: NDArray[np.int32]
    ends: NDArray[np.uint64]


def automaton(literals: Sequence[bytes]) -> Automaton:
    """At most 64 literals, none empty."""
    size = 1 + sum(map(len, literals))
    move, ends, states = np.full((size, 256), -1, np.int32), np.zeros(size, np.uint64), 1
    for bit, literal in enumerate(literals):
        state = 0
        for byte in literal:
            if move[state, byte] < 0:
                move[state, byte], states = states, states + 1
            state = int(move[state, byte])
        ends[state] |= np.uint64(1 << bit)
    back, queue = np.zeros(size, np.int32), deque([0])
    while queue:
        state = queue.popleft()
        for byte in range(256):
            to, other = int(move[state, byte]), int(move[back[state], byte]) if state else 0
            if to < 0:
                move[state, byte] = other
            else:
                back[to] = other
                ends[to] |= ends[other]
                queue.append(to)
    return Automaton(tuple(literals), move[:states], ends[:states])


def held(text: bytes, of: Automaton) -> set[bytes]:
    """The literals that stand in `text`."""
    bits = int(_held(np.frombuffer(text, np.uint8), of.move, of.ends))
    return {literal for bit, literal in enumerate(of.literals) if bits >> bit & 1}


@compiled
def _held(text: Bytes, move: NDArray[np.int32], ends: NDArray[np.uint64]) -> np.uint64:
    state, found = np.int32(0), np.uint64(0)
    for byte in text:
        state = move[state, byte]
        found |= ends[state]
    return found


def places(text: bytes, literal: bytes) -> Iterator[int]:
    """Where `literal` begins in `text`."""
    place = text.find(literal)
    while place >= 0:
        yield place
        place = text.find(literal, place + 1)


def dotted(text: bytes) -> list[int]:
    """The dots between two digits that another one follows within four bytes, as in an IPv4 address."""
    places: list[int] = _dotted(np.frombuffer(text, np.uint8)).tolist()
    return places


@compiled
def _dotted(text: Bytes) -> NDArray[np.int64]:
    found, count, last = np.empty(len(text) // 2 + 1, np.int64), 0, -9
    for place in range(1, len(text) - 1):
        if text[place] == 46 and 48 <= text[place - 1] <= 57 and 48 <= text[place + 1] <= 57:
            found[count] = last
            count += place - last <= 4
            last = place
    return found[:count]
