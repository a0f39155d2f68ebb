"""Test losses and continuations of causal models against what transformers and full logits give."""

import pytest
import torch
from torch.nn import functional as F

from models import RandomLessons, logits, tiny_model, tokens
from provenlm.domains.grids.evaluate.adaptation.causal_lm import answer_loss, greedy_answers
from provenlm.models.common.objective import IGNORE


def test_the_loss_is_the_mean_over_targets(model):
    batch = RandomLessons().batch(range(4))
    expected = F.cross_entropy(logits(model, batch.inputs_BT).flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE)
    assert float(answer_loss(model)(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_logits_are_computed_at_targets_only(models):
    shapes = []
    hook = models["llama"].lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1]))
    answer_loss(models["llama"])(RandomLessons().batch([0, 1]))  # one target and two
    hook.remove()
    assert shapes == [2]


def test_greedy_answers_are_those_of_transformers(models):
    """Which of them have a cache is not visible in the answers."""
    prompts_BT = tokens(3)
    for name in ("gpt2", "llama"):
        expected = models[name].generate(
            prompts_BT,
            attention_mask=torch.ones_like(prompts_BT),
            do_sample=False,
            max_new_tokens=6,
            pad_token_id=0,
            eos_token_id=None,
        )
        answers = greedy_answers(models[name], prompts_BT, range(32), lambda answer: False, 6)
        assert [answer for answer, _ in answers] == expected[:, 13:].tolist()


def test_a_continuation_without_a_cache_equals_that_of_the_logits(models):
    model, prompts_BT = models["provenlm"], tokens(2)
    [(first, first_log_prob), (second, _)] = greedy_answers(model, prompts_BT, [3, 5, 9], lambda answer: len(answer) == 2, 6)
    log_probs_BA = torch.log_softmax(logits(model, prompts_BT)[:, -1, [3, 5, 9]], -1)
    assert [first[0], second[0]] == [(3, 5, 9)[i] for i in log_probs_BA.argmax(-1).tolist()] and len(first) == len(second) == 2
    assert {*first, *second} <= {3, 5, 9} and first_log_prob < 0


def test_sequences_end_one_by_one_and_all_when_told(models):
    answers = greedy_answers(models["llama"], tokens(4), range(32), lambda answer: answer[-1] % 2 == 0, 8)
    assert all(all(token % 2 for token in answer[:-1]) for answer, _ in answers)
    assert [
        answer for answer, _ in greedy_answers(models["llama"], tokens(2), range(32), lambda answer: False, 8, lambda: True)
    ] == [[], []]


def test_half_precision_losses_are_computed_in_single_precision():
    loss = answer_loss(tiny_model("llama").bfloat16())(RandomLessons().batch([0, 1]))
    assert loss.dtype == torch.float32
