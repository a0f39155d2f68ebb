"""Compare the number of training tokens with what scaling laws recommend.

All recommendations are estimates.
"""

import math
from collections.abc import Mapping

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.scaling.laws import TOKENS_PER_PARAMETER, scaling_law_loss, within_fit_range


def compute_optimality_probes() -> Mapping[str, Probe]:
    """Return the probes `compute_optimality` and `scaling_law`."""
    return {
        "compute_optimality": Probe(record_compute_optimality),
        "scaling_law": Probe(record_expected_loss, frozenset({"next_token_logits", "scaling_law"})),
    }


def record_compute_optimality(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record training tokens per parameter and the compute-optimal numbers."""
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


def is_within_scaling_law(context: EvalContext) -> bool:
    """Return whether the scaling law predicts less than the loss of uniform guessing."""
    return _expected_loss(context) < math.log(context.tokens.vocab_size)


def record_expected_loss(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record the expected validation loss by the scaling law."""
    in_range = within_fit_range(context.analytic_counts["active"], len(context.tokens.train.ids))
    note = "" if in_range else ", extrapolated beyond the sizes that it was fitted on"
    description = f"Expected validation loss of the active parameters after one epoch, by a scaling law fitted on web text{note}"
    metrics.add_estimate("expected_loss", _expected_loss(context), "nats/token", description)


def _expected_loss(context: EvalContext) -> float:
    return scaling_law_loss(context.analytic_counts["active"], len(context.tokens.train.ids))
