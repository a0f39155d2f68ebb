"""Compare the number of training tokens with what scaling laws recommend; all recommendations are estimates."""

import math

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext
from provenlm.scaling.laws import TOKENS_PER_PARAMETER, scaling_law_loss, within_fit_range


def compute_optimality_probe(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record unique training tokens per total and active parameter, next to the compute-optimal numbers."""
    num_tokens, counts = len(context.tokens.train.ids), context.analytic_counts
    total, active = counts["total"], counts["active"]
    rule = f"by the rule of {TOKENS_PER_PARAMETER} tokens per parameter (Hoffmann et al. 2022), fitted on dense models of 70 M and more"
    metrics.add_count("train_tokens", num_tokens, "tokens", "Unique training tokens, independent of the number of epochs")
    metrics.add_count("tokens_per_param", num_tokens / total, "tokens", "Unique training tokens per parameter")
    metrics.add_count("tokens_per_active_param", num_tokens / active, "tokens", "Unique training tokens per active parameter")
    description = f"Compute-optimal number of training tokens for the total parameters, {rule}"
    metrics.add_estimate("optimal_tokens", TOKENS_PER_PARAMETER * total, "tokens", description)
    description = f"Compute-optimal number of training tokens for the active parameters, {rule}"
    metrics.add_estimate("optimal_tokens_for_active", TOKENS_PER_PARAMETER * active, "tokens", description)
    description = f"Compute-optimal number of parameters for the training tokens, {rule}"
    metrics.add_estimate("optimal_params", round(num_tokens / TOKENS_PER_PARAMETER), "parameters", description)
    _record_expected_loss(metrics, active, num_tokens, context.tokens.vocab_size)


def _record_expected_loss(metrics: MetricRecorder, num_params: int, num_tokens: int, vocab_size: int) -> None:
    """Record the loss by the scaling law, unless it is above the loss of a uniform guess."""
    loss = scaling_law_loss(num_params, num_tokens)
    if loss >= math.log(vocab_size):
        description = "The scaling law gives more than ln(vocab_size): the model is far smaller than those that it was fitted on"
        metrics.add_count("expected_loss", "not applicable", "nats/token", description)
        return
    note = "" if within_fit_range(num_params, num_tokens) else ", extrapolated beyond the sizes that it was fitted on"
    description = f"Expected validation loss of the active parameters after one epoch, by a scaling law fitted on web text{note}"
    metrics.add_estimate("expected_loss", loss, "nats/token", description)
