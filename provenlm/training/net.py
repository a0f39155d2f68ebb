"""The questions that an architecture answers; a net's `net.py` holds `FACE = Net(...)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from provenlm.core import rng
from provenlm.training import randomness
from provenlm.training.objective import Objective


@dataclass(frozen=True)
class Net:
    """An architecture as functions of its settings.

    `build(settings, vocabulary)` works on torch's meta device too and initialises from torch's current generator.
    `objectives(model, ignore)` are what training minimises (one for a decoder, two for a GAN).
    `logits(model, tokens_BT)` gives logits_BTV of the next token at every position, causal.
    `count(settings, vocabulary)` is the closed form: parameters by part, and `total` and `active` (per token), without building.
    `probe(model, tokens_BT)` gives figures particular to the net: name -> (value, unit, meaning), such as expert load.
    `context(settings)` is the most positions that `logits` takes.
    """

    settings: type
    build: Callable[[Any, int], nn.Module]
    objectives: Callable[[nn.Module, int], Sequence[Objective]]
    logits: Callable[[nn.Module, Tensor], Tensor]
    count: Callable[[Any, int], Mapping[str, int]]
    probe: Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]]
    context: Callable[[Any], int]


def fresh(net: Net, settings: Any, vocabulary: int, seed: int) -> nn.Module:
    """The net as it is before the first step of a training with `seed`."""
    randomness.seed_all(rng.seed_of(seed, "weights"))
    return net.build(settings, vocabulary)
