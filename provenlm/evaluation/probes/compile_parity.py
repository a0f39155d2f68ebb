"""Compare gradients with and without activation checkpointing and compilation."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from provenlm.core.audit import Check, MetricRecorder
from provenlm.evaluation.probe import Probe
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.training import rng_state
from provenlm.training.config import TrainConfig
from provenlm.training.distributed.process_group import SINGLE_PROCESS
from provenlm.training.optim import gradients
from provenlm.training.trainer import Trainer


def compile_parity_probes(case: TrainingCase) -> Mapping[str, Probe]:
    """Return the probes of recomputed and of compiled blocks.

    Compilation needs a C++ compiler and minutes, so it is tested only where the recipe uses it.
    """
    recomputation_differs = "activation checkpointing changes gradients: check random states and what blocks keep between passes"
    compilation_differs = "compiled blocks give other gradients: set train.compile to false"
    return {
        "parity.activation_checkpointing": Probe(
            lambda context, metrics: record_checkpointing_parity(metrics, case),
            frozenset({"blocks"}),
            {"max_relative_diff": Check("< 1e-5", recomputation_differs)},
        ),
        "parity.compile": Probe(
            lambda context, metrics: record_compile_parity(metrics, case),
            frozenset({"blocks", "train.compile"}),
            {"max_relative_diff": Check("< 1e-3", compilation_differs)},
        ),
    }


def record_checkpointing_parity(metrics: MetricRecorder, case: TrainingCase) -> None:
    """Record the parity of gradients with and without activation checkpointing."""
    plain = replace(case.config, activation_checkpointing=None, compile=False)
    recomputed = replace(plain, activation_checkpointing=case.config.activation_checkpointing or 1)
    difference = max_rel_diff(case_gradients(case, recomputed), case_gradients(case, plain))
    description = "Largest gradient difference with and without activation checkpointing, relative to the largest gradient"
    metrics.add_measurement("max_relative_diff", difference, "ratio", description)


def record_compile_parity(metrics: MetricRecorder, case: TrainingCase) -> None:
    """Record the parity of gradients with and without compiled blocks."""
    plain = replace(case.config, activation_checkpointing=None, compile=False)
    difference = max_rel_diff(case_gradients(case, replace(plain, compile=True)), case_gradients(case, plain))
    description = "Largest gradient difference with and without compiled blocks, relative to the largest gradient"
    metrics.add_measurement("max_relative_diff", difference, "ratio", description)


def case_gradients(case: TrainingCase, config: TrainConfig) -> dict[str, Tensor]:
    """Compute every gradient of a small model on one real micro-batch with dropout.

    All weights are random and none is zero.
    """
    rng_state.seed_all(case.config.seed)
    model = case.build().train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.2)
    trainer = Trainer.assemble(case.spec, model, case.dataloader, config, SINGLE_PROCESS)
    batch = case.dataloader.batch_at(0, config.max_micro_batch_size)
    for objective in trainer.objectives:
        gradients.loss_terms(objective, batch, "fp32")["loss"].backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def max_rel_diff(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest absolute difference over the largest expected element."""
    max_abs = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((actual[name] - expected[name]).abs().max()) for name in expected) / max_abs
