"""Prompts and a sampling in, continuations out: every token from a forward pass over the whole of what stands before it.

B rows, T positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from provenlm.validation.probe import Subject


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its logits: divided by `temperature`, cut to `top_k`, then to `top_p`."""

    temperature: float  # 0 is greedy: always the most probable token
    top_k: int  # only the k most probable; 0: all
    top_p: float  # only the fewest most probable that together reach p (Holtzman et al. 2020, arXiv 1904.09751); 1: all

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature and top_k must be at least 0, and top_p above 0 and at most 1")
        if self.temperature == 0 and (self.top_k, self.top_p) != (0, 1.0):
            raise ValueError("temperature 0 is greedy and reads neither top_k nor top_p: write top_k: 0 and top_p: 1.0")


GREEDY = Sampling(0.0, 0, 1.0)


def probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that `sampling` draws from, (B, V); greedy is all on the most probable token."""
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits_BV.argmax(-1), logits_BV.shape[-1]).to(logits_BV.dtype)
    sorted_BV, order_BV = (logits_BV / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logits_BV.shape[-1], device=logits_BV.device)
    keep_BV = (rank_V < (sampling.top_k or len(rank_V))).expand_as(sorted_BV)
    kept_BV = sorted_BV * keep_BV
    kept_BV = kept_BV / kept_BV.sum(-1, keepdim=True)
    before_BV = kept_BV.cumsum(-1) - kept_BV
    kept_BV = kept_BV * ((before_BV < sampling.top_p) | (rank_V == 0))
    return torch.zeros_like(kept_BV).scatter(-1, order_BV, kept_BV / kept_BV.sum(-1, keepdim=True))


@torch.inference_mode()
def generate(
    subject: Subject, prompts: Sequence[Sequence[int]], sampling: Sampling, most: int, generator: torch.Generator
) -> list[list[int]]:
    """The continuation of each prompt: up to `most` tokens, or to the codec's `eos`, which is its last token then.

    `generator` is of the CPU. Only the last `subject.length` tokens are seen. ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("a prompt needs at least one token")
    rows = [list(prompt) for prompt in prompts]
    stop = subject.tokens.special.get("eos")
    active = list(range(len(rows)))
    for _ in range(most):
        if not active:
            break
        logits_BV = _next_logits(subject, [rows[n][-subject.length :] for n in active])
        drawn = torch.multinomial(probabilities(logits_BV, sampling), 1, generator=generator)[:, 0].tolist()
        for n, token in zip(active, drawn, strict=True):
            rows[n].append(token)
        active = [n for n, token in zip(active, drawn, strict=True) if token != stop]
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def _next_logits(subject: Subject, rows: Sequence[Sequence[int]]) -> Tensor:
    """Logits after the last token of each row, (B, V), on the CPU; shorter rows are padded behind, where a causal net does not look."""
    longest = max(map(len, rows))
    pad = subject.tokens.special.get("pad", 0)
    tokens_BT = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=subject.device)
    last_B = torch.tensor([len(row) - 1 for row in rows], device=subject.device)
    logits_BTV = subject.logits(subject.model, tokens_BT)
    return logits_BTV[torch.arange(len(rows), device=subject.device), last_B].float().cpu()
