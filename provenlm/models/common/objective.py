"""Define batches and training objectives.

Shapes: B sequences, T positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeVar

from torch import Tensor, nn

IGNORE = -100  # a target without loss: padding, or the first token of a document

# embedding: token embeddings and output heads; matrix: weights that multiply hidden states; default: norms, routers, biases
ParamGroupName = Literal["embedding", "matrix", "default"]


class Batch(Protocol):
    """Define what training needs of a batch; model and domain agree on the rest.

    Batches are dataclasses. Their tensors have the sequences as their first axis.
    """

    @property
    def num_sequences(self) -> int:
        """Return the number of sequences."""

    @property
    def seq_len(self) -> int:
        """Return the number of positions per sequence, padding included."""

    @property
    def num_targets(self) -> int:
        """Return the number of targets that carry loss; micro-batches are weighted by it."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Return the batch with `fn` applied to each of its tensors."""

    def select(self, sequences: slice) -> Self:
        """Return some of the sequences."""


BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Hold the tensors of a batch for next-token training.

    `inputs_BT` and `targets_BT` are int64; `targets_BT[b, t]` is the token after `inputs_BT[b, t]`, or IGNORE.
    `label_smoothing` is the fraction of each target that the training loss spreads over the vocabulary; the evaluation term ignores it.
    `documents_BT` is the document number of each input; a position may attend to its own document only (None: to its whole sequence).
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor | None = None
    label_smoothing: float = 0.0

    @property
    def num_sequences(self) -> int:
        """Return the number of sequences."""
        return self.inputs_BT.shape[0]

    @property
    def seq_len(self) -> int:
        """Return the number of positions per sequence."""
        return self.inputs_BT.shape[1]

    @property
    def num_targets(self) -> int:
        """Return the number of targets that carry loss."""
        return int((self.targets_BT != IGNORE).sum())

    def map(self, fn: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """Return the batch with `fn` applied to each of its tensors."""
        documents_BT = None if self.documents_BT is None else fn(self.documents_BT)
        return replace(self, inputs_BT=fn(self.inputs_BT), targets_BT=fn(self.targets_BT), documents_BT=documents_BT)

    def select(self, sequences: slice) -> "TokenBatch":
        """Return some of the sequences."""
        return self.map(lambda tensor_BT: tensor_BT[sequences])


StepMetrics = Mapping[str, tuple[float, str, str]]  # name -> (value, unit, description)


def no_metrics(applied: bool) -> StepMetrics:
    """Do nothing after a step and report no metrics."""
    return {}


@dataclass(frozen=True)
class Objective:
    """Describe one loss and the parameters that minimize it.

    `loss(batch)` takes the batches of the domain and returns named terms; `loss(batch)["loss"]` is minimized, a mean over the targets that count.
    `terms` names those of which `loss` is a weighted sum, apart from parts without a name: they keep their graph, so that the evaluation can
    measure the gradient of each.
    `param_groups` lists the parameters by group, because each group has its own optimizer config.
    `eval_term` names the term that measures validation data: the one without regularization.
    `post_step(applied)` is called after every step, applied or skipped: the model updates here what has no gradient, and returns metrics
    collected since the previous call.
    """

    name: str
    param_groups: Mapping[ParamGroupName, Sequence[nn.Parameter]]
    loss: Callable[[Any], Mapping[str, Tensor]]
    eval_term: str
    post_step: Callable[[bool], StepMetrics] = no_metrics
    terms: Sequence[str] = ()
