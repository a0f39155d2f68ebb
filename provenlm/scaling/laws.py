"""Parameters and training tokens in, how the one suits the other and the loss to expect out: estimates by published rules, marked as such."""

import math

TOKENS_PER_PARAMETER = 20  # the rule of thumb from Hoffmann et al. 2022, arXiv 2203.15556, table 3: about 20 at every size

# L = E + A / N^a + B / D^b in nats a token: Hoffmann et al. 2022, equation 2, with the constants that Besiroglu et al. 2024
# (arXiv 2404.10102) found on fitting the same runs again.
LEAST, BY_PARAMETERS, BY_TOKENS = 1.8172, (482.01, 0.3478), (2085.43, 0.3658)
RANGE = (70e6, 16e9), (5e9, 500e9)  # parameters and tokens of those runs: beyond it the rule is stretched


def expected_loss(parameters: float, tokens: float) -> float:
    """Nats a token of a dense net of so many parameters after so many tokens of web text (about four bytes each): an estimate."""
    (a, alpha), (b, beta) = BY_PARAMETERS, BY_TOKENS
    return LEAST + a * math.pow(parameters, -alpha) + b * math.pow(tokens, -beta)


def in_range(parameters: float, tokens: float) -> bool:
    """Whether the rule was fitted on runs of such a size."""
    return all(low <= value <= high for value, (low, high) in zip((parameters, tokens), RANGE, strict=True))
