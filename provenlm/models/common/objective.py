"""Batches and objectives: what a training step is asked to make small."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

IGNORE = -100  # a target that carries no loss: padding, or the first token of a document

ParamGroupName = Literal[
    "embedding", "matrix", "rest"
]  # embeddings and heads; matrices that states pass through; norms, routers, biases


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs_BT`, `targets_BT`: int64. `targets_BT[b, t]` is the token after `inputs_BT[b, t]`, or IGNORE.

    `smoothing` of each target is spread evenly over the vocabulary in what is made small, never in the term that judges.

    `documents_BT`: the number of the document that an input stands in, where a net may look only at that (None: at all of its row).
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor | None = None
    label_smoothing: float = 0.0

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `change` made to each of its tensors."""
        documents_BT = None if self.documents_BT is None else fn(self.documents_BT)
        return replace(self, inputs_BT=fn(self.inputs_BT), targets_BT=fn(self.targets_BT), documents_BT=documents_BT)


StepMetrics = Mapping[str, tuple[float, str, str]]  # name -> (value, unit, meaning)


def no_metrics(applied: bool) -> StepMetrics:
    """After a step nothing is left to do or to say."""
    return {}


@dataclass(frozen=True)
class Objective:
    """`loss(batch)` names its terms; `loss["loss"]` is minimised over `parameters`: a mean over the targets that count.

    `parameters` come by role, because optimizers treat roles differently. `judge` names the term by which held-out data are
    judged: the one without regularisers. `after(applied)` is called after every step, applied or not: a net moves there what it moves
    by itself, and tells what went on inside it since the last call.
    """

    name: str
    param_groups: Mapping[ParamGroupName, Sequence[nn.Parameter]]
    loss: Callable[[Batch], Mapping[str, Tensor]]
    eval_term: str
    post_step: Callable[[bool], StepMetrics] = no_metrics
