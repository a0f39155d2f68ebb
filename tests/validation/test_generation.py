from dataclasses import replace

import pytest
import torch

from provenlm.validation.generation import GREEDY, Sampling, generate, probabilities

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def test_at_temperature_one_the_distribution_is_the_softmax():
    torch.testing.assert_close(probabilities(LOGITS, Sampling(1.0, 0, 1.0)), LOGITS.softmax(-1))


def test_temperature_divides_the_logits():
    torch.testing.assert_close(probabilities(LOGITS, Sampling(0.5, 0, 1.0)), (LOGITS * 2).softmax(-1))


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_top_k_leaves_the_k_most_probable_and_no_other(k):
    found = probabilities(LOGITS, Sampling(1.0, k, 1.0))[0]
    assert torch.nonzero(found).flatten().tolist() == list(range(min(k, 5)))
    assert float(found.sum()) == pytest.approx(1)


def test_top_p_leaves_the_fewest_that_reach_p():
    """softmax: .636, .234, .086, .032, .012."""
    supports = [int((probabilities(LOGITS, Sampling(1.0, 0, p)) > 0).sum()) for p in (0.5, 0.64, 0.87, 0.95, 0.96, 1.0)]
    assert supports == [1, 2, 2, 3, 4, 5]


def test_top_p_is_cut_from_what_top_k_left():
    """Of the two most probable, .636 and .234, the first is .731 of what is left."""
    assert int((probabilities(LOGITS, Sampling(1.0, 2, 0.7)) > 0).sum()) == 1
    assert int((probabilities(LOGITS, Sampling(1.0, 0, 0.7)) > 0).sum()) == 2


def test_greedy_takes_the_most_probable():
    assert probabilities(LOGITS, GREEDY).tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("words", "said"), [((-1.0, 0, 1.0), "at least 0"), ((1.0, 0, 0.0), "top_p above 0"), ((0.0, 5, 1.0), "greedy")]
)
def test_a_sampling_that_means_nothing_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        Sampling(*words)


def test_equal_seeds_give_equal_samples_and_others_do_not(good):
    once, again, other = (generate(good, [[1, 3], [1, 9]], Sampling(1.0, 0, 1.0), 30, random(n)) for n in (0, 0, 1))
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
    rows = generate(good, [[1, 3]] * 20, Sampling(2.0, 0, 1.0), 60, random())
    assert all(2 not in row[:-1] for row in rows)
    assert any(row[-1] == 2 and len(row) < 60 for row in rows)


def test_a_codec_without_an_eos_runs_to_the_full_length(good):
    without = replace(good, tokens=replace(good.tokens, special={"pad": 0}))
    assert {len(row) for row in generate(without, [[1, 3]] * 5, Sampling(2.0, 0, 1.0), 40, random())} == {40}


def test_a_generation_longer_than_the_window_sees_its_last_tokens(good):
    (row,) = generate(good, [[*range(3, 29)]], GREEDY, 5, random())
    (short,) = generate(good, [[*range(13, 29)]], GREEDY, 5, random())
    assert row == short


def test_an_empty_prompt_is_refused(good):
    with pytest.raises(ValueError, match="at least one token"):
        generate(good, [[]], GREEDY, 5, random())
