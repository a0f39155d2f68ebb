"""Parameters and training tokens in, how the one suits the other and the loss to expect out: estimates by published rules, marked as such."""

import math

from provenlm.core.audit import Recorder
from provenlm.validation.probe import Subject

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


def capacity(subject: Subject, figures: Recorder) -> None:
    """Unique training tokens against total and active parameters, beside what the rule asks for."""
    tokens, total, active = len(subject.tokens.train.ids), subject.closed_form["total"], subject.closed_form["active"]
    rule = f"by the rule of {TOKENS_PER_PARAMETER} tokens a parameter (Hoffmann et al. 2022), made for dense nets of 70 M and more"
    figures.counted("training_tokens", tokens, "tokens", "different training tokens at hand, whatever the number of epochs")
    figures.counted("tokens_per_parameter", tokens / total, "tokens", "training tokens at hand for each parameter")
    figures.counted("tokens_per_active_parameter", tokens / active, "tokens", "training tokens at hand for each active parameter")
    figures.estimated("optimal_tokens", TOKENS_PER_PARAMETER * total, "tokens", f"tokens that suit the parameters, {rule}")
    figures.estimated(
        "optimal_tokens_active", TOKENS_PER_PARAMETER * active, "tokens", f"tokens that suit the active parameters, {rule}"
    )
    figures.estimated(
        "optimal_parameters", round(tokens / TOKENS_PER_PARAMETER), "parameters", f"parameters that suit the tokens, {rule}"
    )
    _expected(figures, active, tokens, subject.tokens.vocabulary)


def _expected(figures: Recorder, parameters: int, tokens: int, vocabulary: int) -> None:
    loss = expected_loss(parameters, tokens)
    if loss >= math.log(vocabulary):
        meaning = (
            "the scaling law gives more than the loss of guessing: a run of this size is far below those that it was fitted on"
        )
        figures.counted("expected_loss", "not applicable", "nats/token", meaning)
        return
    where = "" if in_range(parameters, tokens) else ", stretched beyond the sizes that it was fitted on"
    meaning = (
        f"held-out loss to expect of the active parameters after one pass over the tokens, by a scaling law of web text{where}"
    )
    figures.estimated("expected_loss", loss, "nats/token", meaning)
