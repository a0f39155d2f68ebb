"""Choose a model and its training for the minutes and the tokens at hand.

The speed is measured by the caller. The rules are estimates, with the source named beside each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# (hidden size, layers) of the dense decoders to choose from: the shallow ones are for text of a few hundred kilobytes
SHAPES = ((64, 2), (96, 3), (128, 4), (192, 4), (256, 6), (384, 6), (512, 8), (640, 10), (768, 12))
# Effective tokens for each parameter. In one minute on one core and Python's documentation, 360,768 parameters (2.2 tokens for each) reach a
# validation loss of 4.24, 688,800 (0.5) 4.75 and 1,213,568 (0.2) 4.86 nats per token.
MIN_TOKENS_PER_PARAM = 2.0
REPEAT_VALUE = 15.4  # epochs after which repeated tokens have lost most of their value (Muennighoff et al., arXiv 2305.16264, R*_D)
MAX_EPOCHS = 40.0  # beyond, more of the same text makes a model worse, with dropout too
DROPOUT_EPOCHS = 4.0  # up to four epochs are nearly as good as new text (same source)
STEP_SECONDS_SHARE = 0.95  # of the minutes; the rest is the validation loss and checkpoints
# Bytes of text from which a vocabulary of this size pays: a token should occur some hundred times.
VOCAB_SIZES = ((400e6, 16384), (40e6, 8192), (3e6, 4096), (1e6, 2048), (250e3, 1024), (0, 512))
BATCHES = ((40e6, 64), (10e6, 32), (0, 16))  # training tokens from which a batch of this many sequences is used
SEQ_LEN = 256
MIN_STEPS = 30


@dataclass(frozen=True)
class BudgetedTraining:
    """Hold the training that fills a time budget.

    `epochs` are passes over the tokens at hand.
    """

    max_steps: int
    epochs: float
    minutes: float
    dropout: float


def choose_vocab_size(num_bytes: float) -> int:
    """Return the vocabulary size for `num_bytes` of text."""
    return next(size for limit, size in VOCAB_SIZES if num_bytes >= limit)


def choose_batch_size(train_tokens: float) -> int:
    """Return the sequences per step for a training on `train_tokens` in all."""
    return next(size for limit, size in BATCHES if train_tokens >= limit)


def effective_tokens(train_tokens: float, unique_tokens: float) -> float:
    """Return how many new tokens repeated ones are worth.

    Of `train_tokens`, `unique_tokens` are different. Equation 5 of Muennighoff et al. 2023 (arXiv 2305.16264).
    """
    repeats = train_tokens / unique_tokens - 1
    if repeats <= 0:
        return train_tokens
    return unique_tokens * (1 + REPEAT_VALUE * (1 - math.exp(-repeats / REPEAT_VALUE)))


def choose_shape(
    seconds: float,
    unique_tokens: float,
    tokens_per_second: Mapping[tuple[int, int], float],
    num_params: Mapping[tuple[int, int], int],
) -> tuple[int, int]:
    """Return the largest shape that sees enough tokens per parameter.

    Without one, the smallest.
    """
    fitting = [
        shape
        for shape in SHAPES
        if effective_tokens(seconds * tokens_per_second[shape], unique_tokens) >= MIN_TOKENS_PER_PARAM * num_params[shape]
    ]
    return fitting[-1] if fitting else SHAPES[0]


def plan_steps(
    minutes: float, step_seconds: float, step_tokens: float, unique_tokens: float, max_epochs: float = MAX_EPOCHS
) -> BudgetedTraining:
    """Return the steps that take `minutes`.

    Fewer if they would pass over the tokens more than `max_epochs` times.
    """
    steps = max(MIN_STEPS, round(60 * minutes * STEP_SECONDS_SHARE / step_seconds))
    if math.isfinite(max_epochs):
        steps = min(steps, max(MIN_STEPS, math.floor(max_epochs * unique_tokens / step_tokens)))
    epochs = steps * step_tokens / unique_tokens
    return BudgetedTraining(steps, epochs, steps * step_seconds / STEP_SECONDS_SHARE / 60, 0.1 if epochs > DROPOUT_EPOCHS else 0.0)
