"""Keep an exponential moving average (EMA) of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from provenlm.training.distributed.fsdp import shard_like


class EMA:
    """Average the weights of `model` with `decay` after every step.

    The decay is smaller in the first steps; otherwise the average would stay near the initial weights for about 1 / (1 - decay) steps. Buffers
    are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step number `step`.

        The decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self.tensors.values()], [*self.model.parameters()], 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the model's state dict with the averaged weights."""
        return {**self.model.state_dict(), **self.tensors}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the averaged weights."""
        for name, tensor in self.tensors.items():
            tensor.copy_(shard_like(state[name], tensor))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model its averaged weights within a context.

        Afterwards it has its own weights again, bit for bit.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the model's weights and the average."""
        for name, parameter in self.model.named_parameters():
            current = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(current)
