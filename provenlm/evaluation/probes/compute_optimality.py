"""Compare the training tokens with what a scaling law asks for: estimates by published rules, marked as such."""

import math

from provenlm.core.audit import Recorder
from provenlm.evaluation.probe import Subject
from provenlm.scaling.laws import TOKENS_PER_PARAMETER, expected_loss, in_range


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
