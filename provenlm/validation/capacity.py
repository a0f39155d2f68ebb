"""Parameters and training tokens in, how the one suits the other out: an estimate by a published rule, marked as one."""

from provenlm.core.audit import Recorder
from provenlm.validation.probe import Subject

TOKENS_PER_PARAMETER = 20  # the rule of thumb from Hoffmann et al. 2022, arXiv 2203.15556, table 3: about 20 at every size


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
