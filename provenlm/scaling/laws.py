"""Estimate compute-optimal sizes and losses by published scaling laws."""

import math

TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, arXiv 2203.15556, table 3: about 20 at every size

# L = E + A / N^a + B / D^b in nats per token: Hoffmann et al. 2022, equation 2, with the constants of the refit by
# Besiroglu et al. 2024 (arXiv 2404.10102).
IRREDUCIBLE_LOSS, PARAM_TERM, TOKEN_TERM = 1.8172, (482.01, 0.3478), (2085.43, 0.3658)
FIT_RANGE = (70e6, 16e9), (5e9, 500e9)  # parameters and tokens of the fitted runs


def scaling_law_loss(num_params: float, num_tokens: float) -> float:
    """Estimate the loss of a dense model after `num_tokens` tokens of web text.

    The loss is in nats per token; a token has about four bytes.
    """
    (a, alpha), (b, beta) = PARAM_TERM, TOKEN_TERM
    return IRREDUCIBLE_LOSS + a * math.pow(num_params, -alpha) + b * math.pow(num_tokens, -beta)


def within_fit_range(num_params: float, num_tokens: float) -> bool:
    """Return whether the law was fitted on runs of this size."""
    return all(low <= value <= high for value, (low, high) in zip((num_params, num_tokens), FIT_RANGE, strict=True))
