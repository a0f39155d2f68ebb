"""A subject and prompts in, what its net continues them with out."""

from collections.abc import Sequence
from functools import partial

import torch

from provenlm.evaluation.probe import Subject
from provenlm.models.generation import sampling as sampler
from provenlm.models.generation.sampling import Cached, Reader, Sampling, Whole


def generate(
    subject: Subject, prompts: Sequence[Sequence[int]], sampling: Sampling, most: int, generator: torch.Generator
) -> list[list[int]]:
    """The continuation of each prompt: up to `most` tokens, or to the codec's `eos`, which is its last token then.

    `generator` is of the CPU. Only the last `subject.length` tokens are seen. ValueError for an empty prompt.
    """
    return sampler.generate(reader(subject), prompts, sampling, most, subject.tokens.special.get("eos"), generator)


def reader(subject: Subject) -> Reader:
    whole = Whole(partial(subject.logits, subject.model), subject.length, subject.tokens.special.get("pad", 0), subject.device)
    return whole if subject.continued is None else Cached(partial(subject.continued, subject.model), whole)
