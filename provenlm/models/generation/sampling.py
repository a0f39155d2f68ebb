"""Sample tokens from next-token logits and generate continuations.

Shapes: B sequences, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from provenlm.models.generation.logits_provider import LogitsProvider, TokenSequences


@dataclass(frozen=True)
class SamplingConfig:
    """Configure sampling; the defaults sample from the softmax.

    The fields apply in the order repetition_penalty, temperature, top_k, top_p.
    """

    temperature: float = 1.0  # divides the logits; 0 is greedy: always the most probable token
    top_k: int = 0  # keep the k most probable tokens; 0: all
    top_p: float = (
        1.0  # keep the fewest most probable tokens that together reach p (Holtzman et al. 2020, arXiv 1904.09751); 1: all
    )
    # of tokens already in the sequence: divides a logit above 0, multiplies one below (Keskar et al. 2019, arXiv 1909.05858); 1: none
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature: must be >= 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k: must be >= 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be > 0 and <= 1, got {self.top_p}")
        if self.temperature == 0 and self.top_k != 0:
            raise ValueError(f"top_k: must be 0 with temperature 0, which is greedy, got {self.top_k}")
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError(f"top_p: must be 1.0 with temperature 0, which is greedy, got {self.top_p}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty: must be > 0, got {self.repetition_penalty}")


GREEDY = SamplingConfig(0.0, 0, 1.0, 1.0)


def sampling_distribution(logits_BV: Tensor, sampling: SamplingConfig) -> Tensor:
    """Compute the distribution (B, V) to sample from, without the repetition penalty.

    Greedy sampling puts all probability on the most probable token.
    """
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits_BV.argmax(-1), logits_BV.shape[-1]).to(logits_BV.dtype)
    sorted_BV, order_BV = (logits_BV / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logits_BV.shape[-1], device=logits_BV.device)
    keep_BV = (rank_V < (sampling.top_k or len(rank_V))).expand_as(sorted_BV)
    probs_BV = sorted_BV * keep_BV
    probs_BV = probs_BV / probs_BV.sum(-1, keepdim=True)
    preceding_BV = probs_BV.cumsum(-1) - probs_BV
    probs_BV = probs_BV * ((preceding_BV < sampling.top_p) | (rank_V == 0))
    return torch.zeros_like(probs_BV).scatter(-1, order_BV, probs_BV / probs_BV.sum(-1, keepdim=True))


def apply_repetition_penalty(logits_BV: Tensor, sequences: TokenSequences, penalty: float) -> Tensor:
    """Lower the logits of tokens that already occur in the sequence."""
    if penalty == 1:
        return logits_BV
    present_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
    for index, sequence in enumerate(sequences):
        present_BV[index, torch.tensor(sequence, device=logits_BV.device)] = True
    penalised_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(present_BV, penalised_BV, logits_BV)


@torch.inference_mode()
def generate_stream(
    provider: LogitsProvider,
    prompts: TokenSequences,
    sampling: SamplingConfig,
    max_new_tokens: int,
    stop_id: int | None,
    generator: torch.Generator,
) -> Iterator[dict[int, int]]:
    """Yield the token of each unfinished sequence after each forward pass.

    Tokens are keyed by the index of the prompt. A sequence ends after `max_new_tokens` or with `stop_id`, which is then its last
    token. `generator` is a CPU generator. Raises ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("prompt: must have at least one token, got none")
    sequences = [list(prompt) for prompt in prompts]
    active = list(range(len(sequences)))
    for _ in range(max_new_tokens):
        if not active:
            return
        active_sequences = [sequences[index] for index in active]
        logits_BV = apply_repetition_penalty(provider(active_sequences), active_sequences, sampling.repetition_penalty)
        sampled: list[int] = torch.multinomial(sampling_distribution(logits_BV, sampling), 1, generator=generator)[:, 0].tolist()
        for index, token in zip(active, sampled, strict=True):
            sequences[index].append(token)
        yield dict(zip(active, sampled, strict=True))
        continuing = [position for position, token in enumerate(sampled) if token != stop_id]
        if len(continuing) < len(active):
            provider.select(continuing)
            active = [active[position] for position in continuing]


def generate(
    provider: LogitsProvider,
    prompts: TokenSequences,
    sampling: SamplingConfig,
    max_new_tokens: int,
    stop_id: int | None,
    generator: torch.Generator,
) -> list[list[int]]:
    """Return the continuation of each prompt as a whole; see `generate_stream`."""
    continuations: list[list[int]] = [[] for _ in prompts]
    for sampled in generate_stream(provider, prompts, sampling, max_new_tokens, stop_id, generator):
        for index, token in sampled.items():
            continuations[index].append(token)
    return continuations
