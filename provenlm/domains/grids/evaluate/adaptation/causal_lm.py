"""Compute losses and continuations of any causal language model.

Models of transformers return an object with `logits`, our own return the logits. Shapes: B sequences, T tokens, V vocabulary, A allowed tokens.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.objective import IGNORE


def answer_loss(model: nn.Module) -> Callable[[Any], Tensor]:
    """Return a function of a batch: the mean cross-entropy of its targets in nats.

    Logits are computed where there are targets only, if the model can: for a vocabulary of 128,256 they are the largest tensor.
    """
    selects = "logits_to_keep" in inspect.signature(model.forward).parameters

    def mean_loss(batch: Any) -> Tensor:
        """Compute the loss of a batch with `inputs_BT` and `targets_BT`."""
        positions = (batch.targets_BT != IGNORE).any(0).nonzero()[:, 0]
        options = {"logits_to_keep": positions} if selects else {}
        logits_BTV = logits_of(model(batch.inputs_BT, **options))
        logits_BTV = logits_BTV if selects else logits_BTV[:, positions]
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), batch.targets_BT[:, positions].flatten(), ignore_index=IGNORE)

    return mean_loss


def logits_of(output: Any) -> Tensor:
    """Return the logits of a model's output."""
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


@torch.inference_mode()
def greedy_answers(
    model: nn.Module,
    prompts_BT: Tensor,
    allowed_A: Sequence[int],
    end_of: Callable[[Sequence[int]], bool],
    max_tokens: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[tuple[list[int], float]]:
    """Continue prompts of equal length with the most probable of the allowed tokens.

    Returns tokens and their mean log-probability, among the allowed ones, for each prompt. A sequence ends where `end_of(tokens)`, after
    `max_tokens`, or for all when `should_stop()`.
    """
    has_cache = hasattr(model, "generate")  # a model of transformers
    allowed = torch.tensor(list(allowed_A), device=prompts_BT.device)
    answers: list[list[int]] = [[] for _ in prompts_BT]
    log_probs: list[list[float]] = [[] for _ in prompts_BT]
    is_open = [True] * len(answers)
    tokens_BT, cache = prompts_BT, None
    for _ in range(max_tokens):
        if not any(is_open) or should_stop():
            break
        output = model(tokens_BT, past_key_values=cache, use_cache=True) if has_cache else model(tokens_BT)
        log_probs_BA = torch.log_softmax(logits_of(output)[:, -1, allowed].float(), -1)
        best_B = log_probs_BA.max(-1)
        next_B1 = allowed[best_B.indices][:, None]
        for row, (token, log_prob) in enumerate(zip(next_B1[:, 0].tolist(), best_B.values.tolist(), strict=True)):
            if is_open[row]:
                answers[row].append(token)
                log_probs[row].append(log_prob)
                is_open[row] = not end_of(answers[row])
        cache = output.past_key_values if has_cache else None
        tokens_BT = next_B1 if has_cache else torch.cat([tokens_BT, next_B1], 1)
    return [(tokens, sum(values) / max(1, len(values))) for tokens, values in zip(answers, log_probs, strict=True)]
