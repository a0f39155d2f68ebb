"""The `validate` section of a recipe in, the probes that every net and domain is asked out, in the order in which they are asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from provenlm.evaluation import sweep as follow
from provenlm.evaluation.probe import Probe
from provenlm.evaluation.probes import causality as leakage
from provenlm.evaluation.probes import generation_quality, heldout_loss, overfit_batch, parity
from provenlm.evaluation.probes import throughput as speed
from provenlm.evaluation.probes.attention_patterns import attention_probe
from provenlm.evaluation.probes.compute_optimality import capacity
from provenlm.evaluation.probes.gradcheck import gradcheck_probe
from provenlm.evaluation.probes.gradcheck_ops import gradcheck_ops_probe
from provenlm.evaluation.probes.improvement import improvement_probe
from provenlm.evaluation.probes.model_metrics import model_metrics_probe
from provenlm.evaluation.probes.parameter_count import CountOnlyModel, param_count_probe
from provenlm.evaluation.probes.split_overlap import split_overlap_probe


@dataclass(frozen=True)
class CountOnlyConfig:
    """A further shape of the recipe's kind of net, to be counted and never trained."""

    vocab_size: int
    model: dict[str, Any]  # typed by the net


@dataclass(frozen=True)
class ValidateConfig:
    """The `validate` section of a recipe, typed."""

    threads: int
    small_model_overrides: dict[
        str, Any
    ]  # what of the net's section is another in a small net of its kind, for what would be dear at full size
    overfit_batch: overfit_batch.OverfitBatchConfig
    loss_eval: heldout_loss.LossEvalConfig
    causality: leakage.CausalityConfig
    generation: generation_quality.GenerationEvalConfig
    throughput: speed.ThroughputConfig
    count_only_models: dict[str, CountOnlyConfig]
    sweeps: follow.SweepConfig | None
    probes: dict[str, Any]  # typed by the domain

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")


def standard_probes(
    config: ValidateConfig,
    model_metrics: Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]],
    count_only_models: Mapping[str, CountOnlyModel],
    collected_samples: list[generation_quality.GeneratedSample],
) -> dict[str, Probe]:
    """Probes by name. `own` gives what the net says of itself; `written` receives the samples."""
    return {
        "operations": gradcheck_ops_probe,
        "gradients": gradcheck_probe(),
        "memorised": overfit_batch.overfit_batch_probe(config.overfit_batch),
        **heldout_loss.loss_probes(config.loss_eval),
        "learned": improvement_probe(config.loss_eval.tokens_per_batch, config.causality.num_tokens),
        "parameters": param_count_probe(count_only_models),
        "capacity": capacity,
        "leakage.split": split_overlap_probe,
        **leakage.causality_probes(config.causality),
        **parity.parity_probes(config.causality.num_tokens),
        "net": model_metrics_probe(model_metrics, config.causality.num_tokens),
        "attention": attention_probe(config.generation.prompts),
        "generation": generation_quality.generation_probe(config.generation, collected_samples),
        "speed": speed.throughput_probe(config.throughput),
    }
