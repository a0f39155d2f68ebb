"""A subject and prompts in, what its net continues them with out."""

from collections.abc import Sequence
from functools import partial

import torch

from provenlm.evaluation.probe import EvalContext
from provenlm.models.generation import sampling as sampler
from provenlm.models.generation.sampling import CachedLogits, LogitsProvider, SamplingConfig, UncachedLogits


def generate(
    context: EvalContext,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """The continuation of each prompt: up to `most` tokens, or to the codec's `eos`, which is its last token then.

    `generator` is of the CPU. Only the last `subject.length` tokens are seen. ValueError for an empty prompt.
    """
    return sampler.generate(
        logits_provider(context), prompts, sampling, max_new_tokens, context.tokens.special_tokens.get("eos"), generator
    )


def logits_provider(context: EvalContext) -> LogitsProvider:
    full = UncachedLogits(
        partial(context.logits, context.model), context.max_seq_len, context.tokens.special_tokens.get("pad", 0), context.device
    )
    return full if context.logits_with_cache is None else CachedLogits(partial(context.logits_with_cache, context.model), full)
