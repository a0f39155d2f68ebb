"""Compare gradients with and without activation checkpointing and compilation."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.models.common.objective import IGNORE
from provenlm.training import rng_state
from provenlm.training.build_model import apply_compile_and_ac
from provenlm.training.config import TrainConfig
from provenlm.training.optim import gradients

NOT_APPLICABLE = "not applicable"


def record_compile_parity(metrics: MetricRecorder, case: TrainingCase) -> None:
    """Record the parity of recomputed and, if the recipe compiles, of compiled blocks.

    Compilation needs a C++ compiler and minutes, so it is tested only where the recipe uses it.
    """
    plain = replace(case.config, activation_checkpointing=None, compile=False)
    expected = case_gradients(case, plain)
    description = "Largest gradient difference with and without activation checkpointing, relative to the largest gradient"
    recomputed = case_gradients(case, replace(plain, activation_checkpointing=case.config.activation_checkpointing or 1))
    metrics.add_measurement("activation_checkpointing.max_relative_diff", max_rel_diff(recomputed, expected), "ratio", description)
    if not case.config.compile:
        metrics.add_count("compile.max_relative_diff", NOT_APPLICABLE, "ratio", "this recipe does not compile its blocks")
        return
    description = "Largest gradient difference with and without compiled blocks, relative to the largest gradient"
    compiled = case_gradients(case, replace(plain, compile=True))
    metrics.add_measurement("compile.max_relative_diff", max_rel_diff(compiled, expected), "ratio", description)


def case_gradients(case: TrainingCase, config: TrainConfig) -> dict[str, Tensor]:
    """Compute every gradient of a small model on one real micro-batch with dropout.

    All weights are random and none is zero.
    """
    rng_state.seed_all(case.config.seed)
    model = case.build().train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.2)
    apply_compile_and_ac(case.spec, model, config)
    batch = case.dataloader.batch_at(0, config.max_micro_batch_size)
    for objective in case.spec.objectives(model, IGNORE):
        gradients.loss_terms(objective, batch, "fp32")["loss"].backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def max_rel_diff(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest absolute difference over the largest expected element."""
    max_abs = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((actual[name] - expected[name]).abs().max()) for name in expected) / max_abs
