"""Run a stack of blocks, with optional activation checkpointing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BlockCall = Callable[[int, nn.Module, Tensor], tuple[Tensor, Any]]


class BlockStack(nn.ModuleList):
    """Hold the blocks of a model.

    `blocks_per_checkpoint` is the size of a segment that stores only its input (None: store everything).
    """

    blocks_per_checkpoint: int | None = None

    def run(self, state: Tensor, call: BlockCall) -> tuple[Tensor, list[Any]]:
        """Pass `state` through all blocks.

        `call(index, block, state)` returns the next state and an extra output; returns the last state and all extra outputs.
        """
        segmented = self.blocks_per_checkpoint if torch.is_grad_enabled() else None
        size = segmented or len(self)
        extras: list[Any] = []
        for start in range(0, len(self), size):
            segment = partial(self._run_segment, call, range(start, min(start + size, len(self))))
            state, more = checkpoint(segment, state, use_reentrant=False) if segmented else segment(state)
            extras += more
        return state, extras

    def _run_segment(self, call: BlockCall, indices: range, state: Tensor) -> tuple[Tensor, list[Any]]:
        extras = []
        for index in indices:
            state, extra = call(index, self[index], state)
            extras.append(extra)
        return state, extras
