"""Prompts, a reader of rows and a sampling in; continuations out, token by token.

A reader gives the logits after the last token of each row. One reads whole rows, which any causal net can; one reads only what is
new and keeps the rest in a cache, to the same logits.

Shapes: B rows, T positions, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from provenlm.models.common.layers.kv_cache import KVCache

TokenSequences = Sequence[Sequence[int]]


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is drawn from its logits: those of repetitions made smaller, then divided by `temperature`, cut to `top_k`, to `top_p`."""

    temperature: float  # 0 is greedy: always the most probable token
    top_k: int  # only the k most probable; 0: all
    top_p: float  # only the fewest most probable that together reach p (Holtzman et al. 2020, arXiv 1904.09751); 1: all
    repetition_penalty: (
        float  # logits of the row's tokens: divided by it if above 0, else times it (Keskar et al. 2019, arXiv 1909.05858)
    )

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature and top_k must be at least 0, and top_p above 0 and at most 1")
        if self.temperature == 0 and (self.top_k, self.top_p) != (0, 1.0):
            raise ValueError("temperature 0 is greedy and reads neither top_k nor top_p: write top_k: 0 and top_p: 1.0")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0, and is none at 1")


GREEDY = SamplingConfig(0.0, 0, 1.0, 1.0)


def sampling_distribution(logits_BV: Tensor, sampling: SamplingConfig) -> Tensor:
    """The distribution that `sampling` draws from, (B, V), its penalty left out; greedy is all on the most probable token."""
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
    """The logits with those of the tokens that stand in a row made smaller."""
    if penalty == 1:
        return logits_BV
    present_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
    for index, sequence in enumerate(sequences):
        present_BV[index, torch.tensor(sequence, device=logits_BV.device)] = True
    penalised_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(present_BV, penalised_BV, logits_BV)


class LogitsProvider(Protocol):
    """Gives logits_BV after the last token of each row, on the CPU."""

    def __call__(self, sequences: TokenSequences) -> Tensor: ...

    def select(
        self, indices: Sequence[int]
    ) -> None: ...  # only these of the last rows will be asked for again, each one token longer


@dataclass(frozen=True)
class UncachedLogits:
    """Reads the last `length` tokens of each row anew. `logits(tokens_BT)` is causal; `pad` fills shorter rows behind, unseen."""

    logits: Callable[[Tensor], Tensor]
    max_seq_len: int
    pad_id: int
    device: torch.device

    def __call__(self, sequences: TokenSequences) -> Tensor:
        return _last_token_logits(
            self.logits(pad_batch([sequence[-self.max_seq_len :] for sequence in sequences], self.pad_id, self.device)),
            [min(len(sequence), self.max_seq_len) for sequence in sequences],
        )

    def select(self, indices: Sequence[int]) -> None:
        """Nothing to let go."""


class CachedLogits:
    """Reads only what is new of each row, for the rows of one generation.

    A row that outgrows the length moves every position of its window: from there on whole rows are read.
    """

    def __init__(self, logits_with_cache: Callable[[Tensor, KVCache], Tensor], uncached: UncachedLogits) -> None:
        self.logits_with_cache, self.uncached = logits_with_cache, uncached
        self.cache: KVCache | None = None
        self.num_read: list[int] = []

    def __call__(self, sequences: TokenSequences) -> Tensor:
        if max(map(len, sequences)) > self.uncached.max_seq_len:
            self.cache = None
            return self.uncached(sequences)
        if self.cache is None:
            self.cache, self.num_read = KVCache(self.uncached.max_seq_len), [0] * len(sequences)
        new_tokens = [sequence[start:] for sequence, start in zip(sequences, self.num_read, strict=True)]
        tokens_BT = pad_batch(new_tokens, self.uncached.pad_id, self.uncached.device)
        start_B1 = torch.tensor(self.num_read, device=self.uncached.device)[:, None]
        self.cache.set_positions(start_B1 + torch.arange(tokens_BT.shape[1], device=self.uncached.device))
        self.num_read = [len(sequence) for sequence in sequences]
        return _last_token_logits(self.logits_with_cache(tokens_BT, self.cache), [len(sequence) for sequence in new_tokens])

    def select(self, indices: Sequence[int]) -> None:
        self.num_read = [self.num_read[index] for index in indices] if self.cache else []
        if self.cache:
            self.cache.select(torch.tensor(indices, dtype=torch.int64, device=self.uncached.device))  # none, too


def pad_batch(sequences: TokenSequences, pad_id: int, device: torch.device) -> Tensor:
    """tokens_BT, shorter rows filled behind with `pad`."""
    max_len = max(map(len, sequences))
    return torch.tensor([[*sequence, *[pad_id] * (max_len - len(sequence))] for sequence in sequences], device=device)


def _last_token_logits(logits_BTV: Tensor, lengths: Sequence[int]) -> Tensor:
    last_B = torch.tensor(lengths, device=logits_BTV.device) - 1
    return logits_BTV[torch.arange(len(lengths), device=logits_BTV.device), last_B].float().cpu()


@torch.inference_mode()
def generate_stream(
    provider: LogitsProvider,
    prompts: TokenSequences,
    sampling: SamplingConfig,
    max_new_tokens: int,
    stop_id: int | None,
    generator: torch.Generator,
) -> Iterator[dict[int, int]]:
    """After each pass the token drawn for each row that still goes on, by the row's number.

    A row ends after `most` tokens or with `stop`, which is its last token then. `generator` is of the CPU.
    ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("a prompt needs at least one token")
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
    """The whole continuation of each prompt, as `stream` gives it."""
    continuations: list[list[int]] = [[] for _ in prompts]
    for sampled in generate_stream(provider, prompts, sampling, max_new_tokens, stop_id, generator):
        for index, token in sampled.items():
            continuations[index].append(token)
    return continuations
