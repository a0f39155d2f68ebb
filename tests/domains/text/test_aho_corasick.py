import random

import pytest

from provenlm.domains.text.filter.aho_corasick import build_automaton, contained_patterns, find_all, ipv4_candidates

WORDS = (b"he", b"she", b"his", b"hers", b"s", b"e.", b"://")


@pytest.mark.parametrize("seed", range(20))
def test_the_automaton_says_of_each_literal_what_a_search_for_it_says(seed):
    text = bytes(random.Random(seed).choices(b"hesri.:/ \xff", k=seed * 3))
    assert contained_patterns(text, build_automaton(WORDS)) == {word for word in WORDS if word in text}


def test_all_places_of_a_literal_are_told_overlapping_ones_too():
    assert list(find_all(b"aaab aa", b"aa")) == [0, 1, 5]


def test_dots_are_told_where_an_address_may_begin():
    assert ipv4_candidates(b"1.2.3.4 and 3.14, 10.x.1.1") == [1, 3]
    assert ipv4_candidates(b"") == ipv4_candidates(b".") == []
