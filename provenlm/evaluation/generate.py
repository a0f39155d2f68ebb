"""Generate continuations of prompts with the model under evaluation."""

from collections.abc import Sequence
from functools import partial

import torch

from provenlm.evaluation.probe import EvalContext
from provenlm.models.generation import sampling as sampler
from provenlm.models.generation.logits_provider import CachedLogits, LogitsProvider, UncachedLogits
from provenlm.models.generation.sampling import SamplingConfig


def generate(
    context: EvalContext,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Return the continuation of each prompt.

    It has `max_new_tokens` tokens, or fewer if the last one is `eos`. `generator` is on the CPU. The model sees the last
    `max_seq_len` tokens only. ValueError for an empty prompt.
    """
    return sampler.generate(
        logits_provider(context), prompts, sampling, max_new_tokens, context.tokens.special_tokens.get("eos"), generator
    )


def logits_provider(context: EvalContext) -> LogitsProvider:
    """Return the model's next-token logits, with a key-value cache if it has one."""
    full = UncachedLogits(
        partial(context.logits, context.model), context.max_seq_len, context.tokens.special_tokens.get("pad", 0), context.device
    )
    return full if context.logits_with_cache is None else CachedLogits(partial(context.logits_with_cache, context.model), full)
