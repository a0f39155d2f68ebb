import random

import pytest

from provenlm.domains.text.filter.aho_corasick import build_automaton, contained_patterns, find_all, ipv4_candidates

WORDS = (b"he", b"she", b"his", b"hers", b"s", b"e.", b"://")


@pytest.mark.parametrize("seed", range(20))
def test_the_automaton_finds_the_same_patterns_as_single_searches(seed):
    text = bytes(random.Random(seed).choices(b"hesri.:/ \xff", k=seed * 3))
    assert contained_patterns(text, build_automaton(WORDS)) == {word for word in WORDS if word in text}


def test_find_all_yields_overlapping_positions_too():
    assert list(find_all(b"aaab aa", b"aa")) == [0, 1, 5]


def test_ipv4_candidates_are_the_dots_where_an_address_may_start():
    assert ipv4_candidates(b"1.2.3.4 and 3.14, 10.x.1.1") == [1, 3]
    assert ipv4_candidates(b"") == ipv4_candidates(b".") == []
