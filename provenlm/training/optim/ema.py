"""A net's weights after every step in, their exponential moving average out: smoother than any one of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from provenlm.training.distributed.fsdp import shard_like


class EMA:
    """Weights that follow those of `model` at 1 - `decay` of the distance a step, faster in the first steps.

    Without that they would be the untrained ones for about 1 / (1 - decay) steps. Buffers are not averaged: they are taken as they are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update number `step`: the decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self.tensors.values()], [*self.model.parameters()], 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """As the net's own state, with the average in the place of the weights."""
        return {**self.model.state_dict(), **self.tensors}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(shard_like(state[name], tensor))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the net has the average for its weights; afterwards its own again, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.model.named_parameters():
            current = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(current)
