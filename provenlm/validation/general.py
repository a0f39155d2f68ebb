"""The `validate` section of a recipe in, the probes that every net and domain is asked out, in the order in which they are asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from provenlm.validation import equivalence, follow, heldout, leakage, memorised, samples, speed
from provenlm.validation.attention import attention
from provenlm.validation.capacity import capacity
from provenlm.validation.gradients import gradients
from provenlm.validation.learned import learned
from provenlm.validation.operations import operations
from provenlm.validation.parameters import Shape, parameters
from provenlm.validation.particular import particular
from provenlm.validation.probe import Probe
from provenlm.validation.separation import separation


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
    memorise: memorised.Settings
    loss: heldout.Settings
    leakage: leakage.Settings
    generation: samples.Settings
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
    written: list[samples.Sample],
) -> dict[str, Probe]:
    """Probes by name. `own` gives what the net says of itself; `written` receives the samples."""
    return {
        "operations": operations,
        "gradients": gradients(),
        "memorised": memorised.memorised(settings.memorise),
        **heldout.probes(settings.loss),
        "learned": learned(settings.loss.batch_tokens, settings.leakage.tokens),
        "parameters": parameters(shapes),
        "capacity": capacity,
        "leakage.split": separation,
        **leakage.probes(settings.leakage),
        **equivalence.probes(settings.leakage.tokens),
        "net": particular(own, settings.leakage.tokens),
        "attention": attention(settings.generation.prompts),
        "generation": samples.generation(settings.generation, written),
        "speed": speed.speed(settings.speed),
    }
