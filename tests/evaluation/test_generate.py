"""Continuations of prompts by a net that learned a corpus."""

from dataclasses import replace

import pytest
import torch

from provenlm.evaluation.generate import generate
from provenlm.models.generation.sampling import GREEDY, SamplingConfig


def make_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_equal_seeds_give_equal_samples_and_others_do_not(trained_context):
    first, again, different = (
        generate(trained_context, [[1, 3], [1, 9]], SamplingConfig(1.0, 0, 1.0, 1.0), 30, make_generator(n)) for n in (0, 0, 1)
    )
    assert first == again != different


def test_greedy_is_the_argmax_of_a_pass_over_each_prefix(trained_context):
    (continuation,) = generate(trained_context, [[1, 3]], GREEDY, 10, make_generator())
    row = [1, 3]
    for token in continuation:
        with torch.no_grad():
            assert int(trained_context.model(torch.tensor([row[-16:]]))[0, -1].argmax()) == token
        row.append(token)


def test_a_prompt_in_company_is_continued_as_alone(trained_context):
    alone = generate(trained_context, [[1, 3]], GREEDY, 8, make_generator())
    together = generate(trained_context, [[1, 5, 8, 11, 14], [1, 3]], GREEDY, 8, make_generator())
    assert together[1] == alone[0]


def test_generation_ends_with_the_eos_and_not_before(trained_context):
    rows = generate(trained_context, [[1, 3]] * 20, SamplingConfig(2.0, 0, 1.0, 1.0), 60, make_generator())
    assert all(2 not in row[:-1] for row in rows)
    assert any(row[-1] == 2 and len(row) < 60 for row in rows)


def test_without_eos_generation_runs_to_the_full_length(trained_context):
    no_eos = replace(trained_context, tokens=replace(trained_context.tokens, special_tokens={"pad": 0}))
    assert {len(row) for row in generate(no_eos, [[1, 3]] * 5, SamplingConfig(2.0, 0, 1.0, 1.0), 40, make_generator())} == {40}


def test_a_generation_longer_than_the_window_sees_its_last_tokens(trained_context):
    (row,) = generate(trained_context, [[*range(3, 29)]], GREEDY, 5, make_generator())
    (short,) = generate(trained_context, [[*range(13, 29)]], GREEDY, 5, make_generator())
    assert row == short


def test_an_empty_prompt_is_refused(trained_context):
    with pytest.raises(ValueError, match="at least one token"):
        generate(trained_context, [[]], GREEDY, 5, make_generator())
