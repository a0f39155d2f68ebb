"""Define the `validate` section of a recipe and the probes that run for every model and domain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from provenlm.evaluation.probe import Probe
from provenlm.evaluation.probes.attention_patterns import attention_probe
from provenlm.evaluation.probes.causality import CausalityConfig, causality_probes
from provenlm.evaluation.probes.compute_optimality import compute_optimality_probe
from provenlm.evaluation.probes.generation_quality import GeneratedSample, GenerationEvalConfig, generation_probe
from provenlm.evaluation.probes.gradcheck import gradcheck_probe
from provenlm.evaluation.probes.gradcheck_ops import gradcheck_ops_probe
from provenlm.evaluation.probes.heldout_loss import LossEvalConfig, loss_probes
from provenlm.evaluation.probes.improvement import improvement_probe
from provenlm.evaluation.probes.model_metrics import model_metrics_probe
from provenlm.evaluation.probes.overfit_batch import OverfitBatchConfig, overfit_batch_probe
from provenlm.evaluation.probes.parameter_count import CountOnlyModel, param_count_probe
from provenlm.evaluation.probes.parity import parity_probes
from provenlm.evaluation.probes.split_overlap import split_overlap_probe
from provenlm.evaluation.probes.throughput import ThroughputConfig, throughput_probe
from provenlm.evaluation.sweep import SweepConfig


@dataclass(frozen=True)
class CountOnlyConfig:
    """Configure a model of the recipe's architecture whose parameters are counted and which is never trained."""

    vocab_size: int
    model: dict[str, Any]  # parsed by the model package


@dataclass(frozen=True)
class ValidateConfig:
    """Configure the `validate` section of a recipe."""

    threads: int
    small_model_overrides: dict[str, Any]  # keys of the model section that differ in the small model of expensive probes
    overfit_batch: OverfitBatchConfig
    loss_eval: LossEvalConfig
    causality: CausalityConfig
    generation: GenerationEvalConfig
    throughput: ThroughputConfig
    count_only_models: dict[str, CountOnlyConfig]
    sweeps: SweepConfig | None
    probes: dict[str, Any]  # parsed by the domain

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be >= 1, got {self.threads}")


def standard_probes(
    config: ValidateConfig,
    model_metrics: Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]],
    count_only_models: Mapping[str, CountOnlyModel],
    collected_samples: list[GeneratedSample],
) -> dict[str, Probe]:
    """Return the general probes by name, in the order in which they run.

    `model_metrics` computes the metrics that the model package defines; generated samples are appended to `collected_samples`.
    """
    return {
        "gradcheck_ops": gradcheck_ops_probe,
        "gradcheck": gradcheck_probe(),
        "overfit_batch": overfit_batch_probe(config.overfit_batch),
        **loss_probes(config.loss_eval),
        "improvement": improvement_probe(config.loss_eval.tokens_per_batch, config.causality.num_tokens),
        "params": param_count_probe(count_only_models),
        "compute_optimality": compute_optimality_probe,
        "contamination": split_overlap_probe,
        **causality_probes(config.causality),
        **parity_probes(config.causality.num_tokens),
        "model": model_metrics_probe(model_metrics, config.causality.num_tokens),
        "attention": attention_probe(config.generation.prompts),
        "generation": generation_probe(config.generation, collected_samples),
        "throughput": throughput_probe(config.throughput),
    }
