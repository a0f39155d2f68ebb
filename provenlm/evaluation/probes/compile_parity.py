"""A net and the settings of its training in; out, how far gradients are apart when passes are computed again or compiled, and when not."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.models.common.objective import IGNORE
from provenlm.training import rng_state
from provenlm.training.build_model import arrange
from provenlm.training.config import TrainConfig
from provenlm.training.optim import gradients

NOT_APPLICABLE = "not applicable"


def record_compile_parity(metrics: MetricRecorder, case: TrainingCase) -> None:
    """Recomputing is always asked about, compiling where the recipe does it: it takes a compiler and minutes."""
    plain = replace(case.config, activation_checkpointing=None, compile=False)
    expected = case_gradients(case, plain)
    description = "largest difference of a gradient with blocks computed again in the backward pass from that without, over the largest gradient"
    recomputed = case_gradients(case, replace(plain, activation_checkpointing=case.config.activation_checkpointing or 1))
    metrics.add_measurement("recompute.largest_difference", max_rel_diff(recomputed, expected), "ratio", description)
    if not case.config.compile:
        metrics.add_count("compile.largest_difference", NOT_APPLICABLE, "ratio", "this recipe does not compile its blocks")
        return
    description = "largest difference of a gradient with compiled blocks from that without, over the largest gradient"
    metrics.add_measurement(
        "compile.largest_difference",
        max_rel_diff(case_gradients(case, replace(plain, compile=True)), expected),
        "ratio",
        description,
    )


def case_gradients(case: TrainingCase, config: TrainConfig) -> dict[str, Tensor]:
    """The gradient of every parameter of a small net with no weight at nought, on one real micro-batch, dropout on."""
    rng_state.seed_all(case.config.seed)
    model = case.build().train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.2)
    arrange(model, config)
    batch = case.dataloader.batch_at(0, config.max_micro_batch_size)
    for objective in case.spec.objectives(model, IGNORE):
        gradients.loss_terms(objective, batch, "fp32")["loss"].backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def max_rel_diff(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of an element over the largest element of `other`."""
    max_abs = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((actual[name] - expected[name]).abs().max()) for name in expected) / max_abs
