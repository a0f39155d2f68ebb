"""Provide next-token logits for growing sequences, with or without a cache.

Shapes: B sequences, T positions, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.spec import ModelSpec, require_capability

TokenSequences = Sequence[Sequence[int]]


class LogitsProvider(Protocol):
    """Declare the source of next-token logits for growing sequences."""

    def __call__(self, sequences: TokenSequences) -> Tensor:
        """Return logits_BV after the last token of each sequence, on the CPU."""
        ...

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these sequences of the last call.

        The next call has them in this order, each one token longer.
        """
        ...


@dataclass(frozen=True)
class UncachedLogits:
    """Process the last `max_seq_len` tokens of each sequence in every call.

    `logits(tokens_BT)` is causal; `pad_id` pads shorter sequences on the right, where it has no effect.
    """

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
        """Do nothing: there is no cache."""


class CachedLogits:
    """Process only the new tokens of each sequence of one generation.

    Once a sequence is longer than `max_seq_len`, every position of its window moves: from there on it processes whole sequences.
    """

    def __init__(self, logits_with_cache: Callable[[Tensor, KVCache], Tensor], uncached: UncachedLogits) -> None:
        self.logits_with_cache, self.uncached = logits_with_cache, uncached
        self.cache: KVCache | None = None
        self.num_cached: list[int] = []

    def __call__(self, sequences: TokenSequences) -> Tensor:
        if max(map(len, sequences)) > self.uncached.max_seq_len:
            self.cache = None
            return self.uncached(sequences)
        if self.cache is None:
            self.cache, self.num_cached = KVCache(self.uncached.max_seq_len), [0] * len(sequences)
        new_tokens = [sequence[start:] for sequence, start in zip(sequences, self.num_cached, strict=True)]
        tokens_BT = pad_batch(new_tokens, self.uncached.pad_id, self.uncached.device)
        start_B1 = torch.tensor(self.num_cached, device=self.uncached.device)[:, None]
        self.cache.set_positions(start_B1 + torch.arange(tokens_BT.shape[1], device=self.uncached.device))
        self.num_cached = [len(sequence) for sequence in sequences]
        return _last_token_logits(self.logits_with_cache(tokens_BT, self.cache), [len(sequence) for sequence in new_tokens])

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these sequences in the cache."""
        self.num_cached = [self.num_cached[index] for index in indices] if self.cache else []
        if self.cache:
            self.cache.select(torch.tensor(indices, dtype=torch.int64, device=self.uncached.device))


def pad_batch(sequences: TokenSequences, pad_id: int, device: torch.device) -> Tensor:
    """Return tokens_BT with shorter sequences padded on the right."""
    max_len = max(map(len, sequences))
    return torch.tensor([[*sequence, *[pad_id] * (max_len - len(sequence))] for sequence in sequences], device=device)


def _last_token_logits(logits_BTV: Tensor, lengths: Sequence[int]) -> Tensor:
    last_B = torch.tensor(lengths, device=logits_BTV.device) - 1
    return logits_BTV[torch.arange(len(lengths), device=logits_BTV.device), last_B].float().cpu()


def logits_provider(
    spec: ModelSpec,
    model: nn.Module,
    max_seq_len: int,
    special_tokens: Mapping[str, int],
    device: torch.device,
    use_cache: bool = True,
) -> LogitsProvider:
    """Build the logits provider of a model.

    It uses a key-value cache where the model has one, unless `use_cache` is false. Raises ConfigError if the model has no
    next-token logits.
    """
    require_capability(spec, "next_token_logits", "model that generates text")
    assert spec.logits is not None
    uncached = UncachedLogits(partial(spec.logits, model), max_seq_len, special_tokens.get("pad", 0), device)
    if not use_cache or spec.logits_with_cache is None:
        return uncached
    return CachedLogits(partial(spec.logits_with_cache, model), uncached)
