"""A net in, its parts shared out over processes by torch's FSDP2; tensors whole again, and whole ones cut as they are held, out.

Each process holds a share of every parameter, gradient and optimizer state. The layers' weights are brought together when their turn
comes and let go after it. What lies on disk is whole, so that any number of processes can go on from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from provenlm.models.common.objective import Batch, Objective

LossTerms = Mapping[str, Tensor]


class FSDPRoot(nn.Module):
    """Around whatever is computed on the net: torch hangs what it does before and after on a module's forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Callable[[Batch], LossTerms], batch: Batch) -> LossTerms:
        return loss(batch)


def apply_fsdp(model: nn.Module, device_type: str) -> Callable[[Objective], Objective]:
    """Cut `model`'s parameters in place, on devices of `kind`; what its objectives, which must be made after it, have to become.

    What a net holds in a ModuleList, its layers, is brought together one by one; the rest at once. Gradients are sums.
    """
    mesh = init_device_mesh(device_type, (distributed.get_world_size(),))
    for layers in reversed([module for module in model.modules() if isinstance(module, nn.ModuleList)]):
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    root = FSDPRoot(model)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # the other way to divide by one is not known to gloo
    return lambda objective: replace(objective, loss=partial(root, objective.loss))


def unsharded_objective(objective: Objective) -> Objective:
    """What an objective of a net that is not shared out becomes."""
    return objective


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor that processes hold parts of, in each of them; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """This process's part of a whole tensor, on the device of `held`, which is of the same shape; all of it if `held` is whole."""
    on_device = tensor.to(reference.device)
    if not isinstance(reference, DTensor):
        return on_device
    return distribute_tensor(on_device, reference.device_mesh, reference.placements, src_data_rank=None)


def local_tensor(tensor: Tensor) -> Tensor:
    """The part that lies in this process; it shares its memory with `tensor`."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def apply_on_full_matrix(compute: Callable[[Tensor], Tensor], parts: Tensor, reference: Tensor) -> Tensor:
    """`compute` on a stack of what processes hold of several tensors shaped and shared out as `like`, each matrix of which has to be
    whole for it; this process's parts of what comes out. Every matrix is computed in one process."""
    if not isinstance(reference, DTensor) or reference.ndim > 2:  # cut between matrices, not through them
        return compute(parts)
    shape = torch.Size((len(parts), *reference.shape))
    strides = (reference.shape[0] * reference.shape[1], reference.shape[1], 1)
    sharded = DTensor.from_local(parts, reference.device_mesh, [Shard(1)], run_check=False, shape=shape, stride=strides)
    by_matrix = _redistribute(sharded, Shard(0))
    results = DTensor.from_local(
        compute(by_matrix.to_local()), reference.device_mesh, [Shard(0)], run_check=False, shape=shape, stride=strides
    )
    return _redistribute(results, Shard(1)).to_local()


def _redistribute(tensor: DTensor, placement: Shard) -> DTensor:
    """Cut along another axis. Processes on CPUs cannot hand each other parts all at once, so each first gets the whole."""
    via = [Replicate()] if tensor.device.type == "cpu" else [placement]
    return tensor.redistribute(placements=via).redistribute(placements=[placement])
