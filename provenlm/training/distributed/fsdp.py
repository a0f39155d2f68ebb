"""Shard a model over processes with FSDP2, and convert tensors to and from shards.

Each process holds a shard of every parameter, gradient and optimizer state; a layer's weights are gathered when it runs and freed after
it. Checkpoints hold full tensors, so that any number of processes can resume from them.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, distributed, nn

from provenlm.models.common.objective import Batch, Objective

if TYPE_CHECKING:  # torch.distributed.tensor takes a second to import
    from torch.distributed.tensor import DTensor, Shard

LossTerms = Mapping[str, Tensor]


class FSDPRoot(nn.Module):
    """Wrap a loss in a module's forward, where FSDP attaches its hooks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Callable[[Batch], LossTerms], batch: Batch) -> LossTerms:
        """Compute the loss terms of a batch."""
        return loss(batch)


def apply_fsdp(model: nn.Module, device_type: str) -> Callable[[Objective], Objective]:
    """Shard a model in place; return a function that wraps its objectives.

    The objectives must be made after this call. Members of each ModuleList (the layers) are gathered one by one, the rest at once. Gradients
    are summed over processes, not averaged.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device_type, (distributed.get_world_size(),))
    for layers in reversed([module for module in model.modules() if isinstance(module, nn.ModuleList)]):
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    root = FSDPRoot(model)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no premultiplied sum
    return lambda objective: replace(objective, loss=partial(root, objective.loss))


def unsharded_objective(objective: Objective) -> Objective:
    """Return the objective of a model that is not sharded, unchanged."""
    return objective


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether a tensor is a DTensor; none can be before its module is imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor in every process; return other tensors unchanged."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Return this process's shard of a full tensor, placed like `reference`.

    Returns all of it, on the device of `reference`, if that is not sharded.
    """
    on_device = tensor.to(reference.device)
    if not is_sharded(reference):
        return on_device
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(on_device, reference.device_mesh, reference.placements, src_data_rank=None)


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor; it shares the tensor's memory."""
    with torch.no_grad():
        return tensor.to_local() if is_sharded(tensor) else tensor


def apply_on_full_matrix(compute: Callable[[Tensor], Tensor], parts: Tensor, reference: Tensor) -> Tensor:
    """Apply `compute` to sharded matrices, each gathered in one process.

    `parts` stacks this process's shards of several tensors with the shape and placement of `reference`; returns this process's shards of the
    results. Every matrix is computed by exactly one process.
    """
    if not is_sharded(reference) or reference.ndim > 2:  # sharded between matrices, not within them
        return compute(parts)
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((len(parts), *reference.shape))
    strides = (reference.shape[0] * reference.shape[1], reference.shape[1], 1)
    sharded = DTensor.from_local(parts, reference.device_mesh, [Shard(1)], run_check=False, shape=shape, stride=strides)
    by_matrix = _redistribute(sharded, Shard(0))
    results = DTensor.from_local(
        compute(by_matrix.to_local()), reference.device_mesh, [Shard(0)], run_check=False, shape=shape, stride=strides
    )
    return _redistribute(results, Shard(1)).to_local()


def _redistribute(tensor: "DTensor", placement: "Shard") -> "DTensor":
    """Shard a tensor along another axis.

    On CPUs processes cannot exchange shards directly, so every process gathers the full tensor first.
    """
    from torch.distributed.tensor import Replicate

    via = [Replicate()] if tensor.device.type == "cpu" else [placement]
    return tensor.redistribute(placements=via).redistribute(placements=[placement])
