"""Compare the training tokens with what a scaling law asks for: estimates by published rules, marked as such."""

import math

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext
from provenlm.scaling.laws import TOKENS_PER_PARAMETER, scaling_law_loss, within_fit_range


def capacity(subject: EvalContext, figures: MetricRecorder) -> None:
    """Unique training tokens against total and active parameters, beside what the rule asks for."""
    tokens, total, active = len(subject.tokens.train.ids), subject.analytic_counts["total"], subject.analytic_counts["active"]
    rule = f"by the rule of {TOKENS_PER_PARAMETER} tokens a parameter (Hoffmann et al. 2022), made for dense nets of 70 M and more"
    figures.add_count("training_tokens", tokens, "tokens", "different training tokens at hand, whatever the number of epochs")
    figures.add_count("tokens_per_parameter", tokens / total, "tokens", "training tokens at hand for each parameter")
    figures.add_count("tokens_per_active_parameter", tokens / active, "tokens", "training tokens at hand for each active parameter")
    figures.add_estimate("optimal_tokens", TOKENS_PER_PARAMETER * total, "tokens", f"tokens that suit the parameters, {rule}")
    figures.add_estimate(
        "optimal_tokens_active", TOKENS_PER_PARAMETER * active, "tokens", f"tokens that suit the active parameters, {rule}"
    )
    figures.add_estimate(
        "optimal_parameters", round(tokens / TOKENS_PER_PARAMETER), "parameters", f"parameters that suit the tokens, {rule}"
    )
    _expected(figures, active, tokens, subject.tokens.vocab_size)


def _expected(figures: MetricRecorder, parameters: int, tokens: int, vocabulary: int) -> None:
    loss = scaling_law_loss(parameters, tokens)
    if loss >= math.log(vocabulary):
        meaning = (
            "the scaling law gives more than the loss of guessing: a run of this size is far below those that it was fitted on"
        )
        figures.add_count("expected_loss", "not applicable", "nats/token", meaning)
        return
    where = "" if within_fit_range(parameters, tokens) else ", stretched beyond the sizes that it was fitted on"
    meaning = (
        f"held-out loss to expect of the active parameters after one pass over the tokens, by a scaling law of web text{where}"
    )
    figures.add_estimate("expected_loss", loss, "nats/token", meaning)
