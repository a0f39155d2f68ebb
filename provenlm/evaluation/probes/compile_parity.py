"""A net and the settings of its training in; out, how far gradients are apart when passes are computed again or compiled, and when not."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from provenlm.core.audit import Recorder
from provenlm.evaluation.probes.resume_bitexact import Trial
from provenlm.models.common.objective import IGNORE
from provenlm.training import rng_state
from provenlm.training.build_model import arrange
from provenlm.training.config import Settings
from provenlm.training.optim import gradients

INAPPLICABLE = "not applicable"


def record(figures: Recorder, trial: Trial) -> None:
    """Recomputing is always asked about, compiling where the recipe does it: it takes a compiler and minutes."""
    plain = replace(trial.settings, recompute=None, compile=False)
    expected = slopes(trial, plain)
    meaning = "largest difference of a gradient with blocks computed again in the backward pass from that without, over the largest gradient"
    again = slopes(trial, replace(plain, recompute=trial.settings.recompute or 1))
    figures.measured("recompute.largest_difference", apart(again, expected), "ratio", meaning)
    if not trial.settings.compile:
        figures.counted("compile.largest_difference", INAPPLICABLE, "ratio", "this recipe does not compile its blocks")
        return
    meaning = "largest difference of a gradient with compiled blocks from that without, over the largest gradient"
    figures.measured("compile.largest_difference", apart(slopes(trial, replace(plain, compile=True)), expected), "ratio", meaning)


def slopes(trial: Trial, settings: Settings) -> dict[str, Tensor]:
    """The gradient of every parameter of a small net with no weight at nought, on one real micro-batch, dropout on."""
    rng_state.seed_all(trial.settings.seed)
    model = trial.build().train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.2)
    arrange(model, settings)
    batch = trial.batches.take(0, settings.most_rows)
    for objective in trial.net.objectives(model, IGNORE):
        gradients.terms(objective, batch, "fp32")["loss"].backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of an element over the largest element of `other`."""
    largest = max(float(gradient.abs().max()) for gradient in other.values())
    return max(float((one[name] - other[name]).abs().max()) for name in other) / largest
