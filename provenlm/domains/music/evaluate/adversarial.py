"""Measure whether an adversarial training is balanced.

That is the accuracy of the discriminator and its share of the gradient of the decoder.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder
from provenlm.domains.music.evaluate.config import MusicEvalConfig
from provenlm.domains.music.evaluate.latents import validation_passes
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.objective import Objective

ACCURACY = "discriminator_accuracy"
OUTPUT_MATRIX = "lm_head.weight"
ADVERSARIAL_TERMS = ("adversarial", "feature_matching")
ACCURACY_BAND = "0.55..0.85"  # below: the discriminator tells the decoder nothing; above: its gradient vanishes
SHARE_BAND = "0.05..0.2"


def adversarial_probe(config: MusicEvalConfig) -> Probe:
    """Return the probe of models with a discriminator."""
    return Probe(
        lambda context, metrics: record_balance(context, metrics, config),
        frozenset({"discriminator", "validation_split"}),
        {
            "accuracy": Check(ACCURACY_BAND, "the discriminator is too weak or too strong: change its learning rate or its size"),
            "gradient_share": Check(
                SHARE_BAND, "the adversarial gradient does not reach the decoder, or it dominates the likelihood"
            ),
        },
    )


def find_discriminator(objectives: Sequence[Objective]) -> Objective | None:
    """Return the objective that trains a discriminator, if there is one."""
    return next((objective for objective in objectives if objective.name == "discriminator"), None)


def record_balance(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig) -> None:
    """Record accuracy and gradient share on held-out sequences.

    Tokens are sampled as in training.
    ValueError if the discriminator took no part in the training.
    """
    assert context.objectives is not None
    model = copy.deepcopy(context.model).train()
    objectives = context.objectives(model)
    discriminator = find_discriminator(objectives)
    assert discriminator is not None
    accuracies, shares = [], []
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(rng.derive_seed(context.seed, "adversarial balance"))
        for batch in validation_passes(context, config.latents):
            with torch.no_grad():
                values = discriminator.loss(batch)
            shares.append(gradient_share(model, objectives[0], batch))
            accuracies.append(float(values[ACCURACY]))
    description = "Fraction of held-out bars, real ones and samples, that the discriminator tells apart; 0.5 is chance"
    metrics.add_measurement("accuracy", float(np.mean(accuracies)), "fraction", description)
    description = "Norm of the weighted adversarial gradient at the output matrix relative to that of the likelihood"
    metrics.add_measurement("gradient_share", float(np.mean(shares)), "ratio", description)


def gradient_share(model: nn.Module, objective: Objective, batch: Any) -> float:
    """Return the adversarial gradient relative to that of the likelihood.

    Both are norms at the output matrix, the first one as weighted in the loss. ValueError without adversarial terms in the loss.
    """
    matrix = dict(model.named_parameters())[OUTPUT_MATRIX]
    values = objective.loss(batch)
    if missing := [name for name in ADVERSARIAL_TERMS if name not in values]:
        raise ValueError(f"the loss has no term {missing[0]}: the start of the discriminator lies after the last step")
    weight = float(values["adversarial_weight"])
    likelihood = _gradient_norm(values["nll"], matrix)
    adversarial = _gradient_norm(torch.stack([values[name] for name in ADVERSARIAL_TERMS]).sum(), matrix)
    return weight * adversarial / likelihood


def _gradient_norm(value: Tensor, parameter: nn.Parameter) -> float:
    """Return the norm of the gradient of a value; 0 for a value without a graph to the parameter."""
    if not value.requires_grad:
        return 0.0
    (slope,) = torch.autograd.grad(value, parameter, retain_graph=True, allow_unused=True)
    return 0.0 if slope is None else float(slope.norm())
