"""Parameters and training tokens in, how the one suits the other and the loss to expect out: estimates by published rules, marked as such."""

import math

TOKENS_PER_PARAMETER = 20  # the rule of thumb from Hoffmann et al. 2022, arXiv 2203.15556, table 3: about 20 at every size

# L = E + A / N^a + B / D^b in nats a token: Hoffmann et al. 2022, equation 2, with the constants that Besiroglu et al. 2024
# (arXiv 2404.10102) found on fitting the same runs again.
IRREDUCIBLE_LOSS, PARAM_TERM, TOKEN_TERM = 1.8172, (482.01, 0.3478), (2085.43, 0.3658)
FIT_RANGE = (70e6, 16e9), (5e9, 500e9)  # parameters and tokens of those runs: beyond it the rule is stretched


def scaling_law_loss(num_params: float, num_tokens: float) -> float:
    """Nats a token of a dense net of so many parameters after so many tokens of web text (about four bytes each): an estimate."""
    (a, alpha), (b, beta) = PARAM_TERM, TOKEN_TERM
    return IRREDUCIBLE_LOSS + a * math.pow(num_params, -alpha) + b * math.pow(num_tokens, -beta)


def within_fit_range(num_params: float, num_tokens: float) -> bool:
    """Whether the rule was fitted on runs of such a size."""
    return all(low <= value <= high for value, (low, high) in zip((num_params, num_tokens), FIT_RANGE, strict=True))
