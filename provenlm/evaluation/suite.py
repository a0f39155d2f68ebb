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
from provenlm.evaluation.probes.attention_patterns import attention
from provenlm.evaluation.probes.compute_optimality import capacity
from provenlm.evaluation.probes.gradcheck import gradients
from provenlm.evaluation.probes.gradcheck_ops import operations
from provenlm.evaluation.probes.improvement import learned
from provenlm.evaluation.probes.model_metrics import particular
from provenlm.evaluation.probes.parameter_count import Shape, parameters
from provenlm.evaluation.probes.split_overlap import separation


@dataclass(frozen=True)
class AlsoCount:
    """A further shape of the recipe's kind of net, to be counted and never trained."""

    vocabulary: int
    net: dict[str, Any]  # typed by the net


@dataclass(frozen=True)
class Settings:
    """The `validate` section of a recipe, typed."""

    threads: int
    small: dict[str, Any]  # what of the net's section is another in a small net of its kind, for what would be dear at full size
    memorise: overfit_batch.Settings
    loss: heldout_loss.Settings
    leakage: leakage.Settings
    generation: generation_quality.Settings
    speed: speed.Settings
    also_count: dict[str, AlsoCount]
    follow: follow.Settings | None
    probes: dict[str, Any]  # typed by the domain

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")


def probes(
    settings: Settings,
    own: Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]],
    shapes: Mapping[str, Shape],
    written: list[generation_quality.Sample],
) -> dict[str, Probe]:
    """Probes by name. `own` gives what the net says of itself; `written` receives the samples."""
    return {
        "operations": operations,
        "gradients": gradients(),
        "memorised": overfit_batch.memorised(settings.memorise),
        **heldout_loss.probes(settings.loss),
        "learned": learned(settings.loss.batch_tokens, settings.leakage.tokens),
        "parameters": parameters(shapes),
        "capacity": capacity,
        "leakage.split": separation,
        **leakage.probes(settings.leakage),
        **parity.probes(settings.leakage.tokens),
        "net": particular(own, settings.leakage.tokens),
        "attention": attention(settings.generation.prompts),
        "generation": generation_quality.generation(settings.generation, written),
        "speed": speed.speed(settings.speed),
    }
