"""Generate tokens from latents.

Each position uses the latent of its segment, such as a bar of music.

Shapes: B sequences, T positions, N latents of a sequence, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.spec import Latent, LatentSample
from provenlm.models.generation import sampling
from provenlm.models.generation.logits_provider import TokenSequences, pad_batch
from provenlm.models.generation.sampling import SamplingConfig


@dataclass(frozen=True)
class LatentStream:
    """Define what token ids mean to a model with latents.

    Every sequence begins with `start` and ends with `end` (None: no such id). The first of the ids `latent_starts` in a sequence still
    belongs to the first latent; each later one begins the next latent.
    """

    start: int
    latent_starts: frozenset[int]
    end: int | None

    def latent_numbers(self, tokens: Sequence[int]) -> list[int]:
        """Return the number of the latent that each position uses."""
        numbers, num_starts = [], 0
        for token in tokens:
            num_starts += token in self.latent_starts
            numbers.append(max(0, num_starts - 1))
        return numbers


class LatentLogits:
    """Provide next-token logits of one generation; see `LogitsProvider`.

    After its last latent a sequence is over: only `stream.end` may follow. `num_slots` is the longest sequence.
    """

    def __init__(self, latent: Latent, model: nn.Module, sample: LatentSample, stream: LatentStream, num_slots: int) -> None:
        self.latent, self.model, self.stream = latent, model, stream
        self.sample, self.device = sample, sample.latents_BNZ.device
        self.cache = KVCache(num_slots) if latent.has_cache(model) else None
        self.num_cached = [0] * len(sample.latents_BNZ)

    @torch.no_grad()
    def __call__(self, sequences: TokenSequences) -> Tensor:
        numbers = [self.stream.latent_numbers(sequence) for sequence in sequences]
        num_latents = self.sample.latents_BNZ.shape[1]
        tokens_BT = pad_batch([row[start:] for row, start in zip(sequences, self.num_cached, strict=True)], 0, self.device)
        numbers_BT = pad_batch([row[start:] for row, start in zip(numbers, self.num_cached, strict=True)], 0, self.device)
        start_B = torch.tensor(self.num_cached, device=self.device)
        if self.cache is not None:
            self.cache.set_positions(start_B[:, None] + torch.arange(tokens_BT.shape[1], device=self.device))
            self.num_cached = [len(sequence) for sequence in sequences]
        logits_BTV = self.latent.logits(self.model, tokens_BT, numbers_BT.clamp(max=num_latents - 1), self.sample, self.cache)
        last_B = torch.tensor([len(sequence) for sequence in sequences], device=self.device) - start_B - 1
        logits_BV = logits_BTV[torch.arange(len(sequences), device=self.device), last_B].float().cpu()
        over_B = torch.tensor([row[-1] >= num_latents for row in numbers])
        if self.stream.end is not None and over_B.any():
            is_end_V = torch.arange(logits_BV.shape[1]) == self.stream.end
            logits_BV = logits_BV.masked_fill(over_B[:, None] & ~is_end_V, -torch.inf)
        return logits_BV

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these sequences of the last call."""
        index_B = torch.tensor(indices, dtype=torch.int64, device=self.device)
        attributes_BNA = self.sample.attributes_BNA
        self.sample = LatentSample(self.sample.latents_BNZ[index_B], None if attributes_BNA is None else attributes_BNA[index_B])
        self.num_cached = [self.num_cached[index] for index in indices]
        if self.cache is not None:
            self.cache.select(index_B)


def generate_from_latents(
    latent: Latent,
    model: nn.Module,
    sample: LatentSample,
    stream: LatentStream,
    sampling_config: SamplingConfig,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Return the ids after `stream.start`, one sequence for each row of `sample`.

    A sequence ends with `stream.end`, after `max_new_tokens`, or before the token that begins one latent more than it has.
    `generator` is a CPU generator.
    """
    provider = LatentLogits(latent, model, sample, stream, max_new_tokens + 1)
    prompts = [[stream.start]] * len(sample.latents_BNZ)
    outputs = sampling.generate(provider, prompts, sampling_config, max_new_tokens, stream.end, generator)
    num_latents = sample.latents_BNZ.shape[1]
    lengths = [sum(number < num_latents for number in stream.latent_numbers(output)) for output in outputs]
    return [output[:length] for output, length in zip(outputs, lengths, strict=True)]
