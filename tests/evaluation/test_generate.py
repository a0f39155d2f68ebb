"""Continuations of prompts by a net that learned a corpus."""

from dataclasses import replace

import pytest
import torch

from provenlm.evaluation.generate import generate
from provenlm.models.generation.sampling import GREEDY, SamplingConfig


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def test_equal_seeds_give_equal_samples_and_others_do_not(good):
    once, again, other = (generate(good, [[1, 3], [1, 9]], SamplingConfig(1.0, 0, 1.0, 1.0), 30, random(n)) for n in (0, 0, 1))
    assert once == again != other


def test_greedy_is_the_argmax_of_a_pass_over_each_prefix(good):
    (made,) = generate(good, [[1, 3]], GREEDY, 10, random())
    row = [1, 3]
    for token in made:
        with torch.no_grad():
            assert int(good.model(torch.tensor([row[-16:]]))[0, -1].argmax()) == token
        row.append(token)


def test_a_prompt_in_company_is_continued_as_alone(good):
    alone = generate(good, [[1, 3]], GREEDY, 8, random())
    together = generate(good, [[1, 5, 8, 11, 14], [1, 3]], GREEDY, 8, random())
    assert together[1] == alone[0]


def test_generation_ends_with_the_eos_and_not_before(good):
    rows = generate(good, [[1, 3]] * 20, SamplingConfig(2.0, 0, 1.0, 1.0), 60, random())
    assert all(2 not in row[:-1] for row in rows)
    assert any(row[-1] == 2 and len(row) < 60 for row in rows)


def test_a_codec_without_an_eos_runs_to_the_full_length(good):
    without = replace(good, tokens=replace(good.tokens, special_tokens={"pad": 0}))
    assert {len(row) for row in generate(without, [[1, 3]] * 5, SamplingConfig(2.0, 0, 1.0, 1.0), 40, random())} == {40}


def test_a_generation_longer_than_the_window_sees_its_last_tokens(good):
    (row,) = generate(good, [[*range(3, 29)]], GREEDY, 5, random())
    (short,) = generate(good, [[*range(13, 29)]], GREEDY, 5, random())
    assert row == short


def test_an_empty_prompt_is_refused(good):
    with pytest.raises(ValueError, match="at least one token"):
        generate(good, [[]], GREEDY, 5, random())
