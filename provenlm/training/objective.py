"""Batches and objectives: what a training step is asked to make small."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

IGNORE = -100  # a target that carries no loss: padding, or the first token of a document


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs_BT`, `targets_BT`: int64. `targets_BT[b, t]` is the token after `inputs_BT[b, t]`, or IGNORE."""

    inputs_BT: Tensor
    targets_BT: Tensor


@dataclass(frozen=True)
class Objective:
    """`loss(batch)` names its terms; `loss["loss"]` is minimised over `parameters`: a mean over the targets that count."""

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], Mapping[str, Tensor]]
