"""Compute the gradients of an objective with gradient accumulation.

Each micro-batch is weighted by its fraction of the batch's targets, so that the gradient does not depend on the micro-batch size.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from provenlm.models.common.objective import Batch, BatchT, Objective
from provenlm.training.distributed import fsdp
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def compute_gradients(
    objective: Objective,
    batch: Batch,
    micro_batch_size: int,
    precision: str,
    loss_scale: float,
    max_grad_norm: float | None,
    device: torch.device,
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Compute the clipped gradient of the whole batch, left in `.grad`.

    Returns (loss terms, gradient norm before clipping, the same by parameter group). Gradients are `loss_scale` times as large in the backward
    pass and unscaled afterwards.
    """
    return finalize_gradients(
        objective,
        accumulate_gradients(objective, batch, micro_batch_size, precision, loss_scale, device, SINGLE_PROCESS),
        loss_scale,
        max_grad_norm,
        SINGLE_PROCESS,
    )


def accumulate_gradients(
    objective: Objective,
    batch: Batch,
    micro_batch_size: int,
    precision: str,
    loss_scale: float,
    device: torch.device,
    dist: DistributedContext,
) -> dict[str, Tensor]:
    """Accumulate `loss_scale` times the gradient of this process's micro-batches.

    Returns the weighted sums of the loss terms over the same micro-batches.
    """
    for parameter in _trainable_params(objective):
        parameter.grad = None
    term_sums: dict[str, Tensor] = {}
    for part, weight in dist.shard(micro_batches(batch, micro_batch_size)):
        term_values = loss_terms(objective, to_device(part, device), precision)
        (term_values["loss"] * (weight * loss_scale)).backward()  # type: ignore[no-untyped-call]
        for name, value in term_values.items():
            term_sums[name] = term_sums.get(name, 0) + value.detach() * weight
    return term_sums


def finalize_gradients(
    objective: Objective, term_sums: Mapping[str, Tensor], loss_scale: float, max_grad_norm: float | None, dist: DistributedContext
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Reduce, unscale and clip the accumulated gradients.

    Returns (loss terms, gradient norm before clipping, the same by parameter group).
    """
    parameters = _trainable_params(objective)
    dist.all_reduce_grads(parameters)
    if loss_scale != 1:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / loss_scale)
    role_norms = {
        role: fsdp.full_tensor(nn.utils.get_total_norm([p.grad for p in params if p.grad is not None]))
        for role, params in objective.param_groups.items()
        if any(p.grad is not None for p in params)
    }
    norm = torch.stack([*role_norms.values()]).norm()
    nn.utils.clip_grads_with_norm_(parameters, math.inf if max_grad_norm is None else max_grad_norm, norm)
    terms = dist.all_reduce([value.item() for value in term_sums.values()])
    synced_norm, *synced_norms = dist.broadcast([norm.item(), *(role_norm.item() for role_norm in role_norms.values())])
    return dict(zip(term_sums, terms, strict=True)), synced_norm, dict(zip(role_norms, synced_norms, strict=True))


def _trainable_params(objective: Objective) -> list[nn.Parameter]:
    """List the trainable parameters of an objective."""
    return [p for group in objective.param_groups.values() for p in group if p.requires_grad]


def loss_terms(objective: Objective, batch: Batch, precision: str) -> Mapping[str, Tensor]:
    """Compute the objective's loss terms in the given precision.

    Runs on the device of the objective's parameters.
    """
    device = next(param.device for params in objective.param_groups.values() for param in params)
    with torch.autocast(device.type, AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES):
        return objective.loss(batch)


def mean_loss_terms(
    loss: Callable[[Batch], Mapping[str, Tensor]], batches: Sequence[Batch], micro_batch_size: int, dist: DistributedContext
) -> dict[str, float]:
    """Compute each term's mean over all targets of `batches`."""
    total_targets = sum(batch.num_targets for batch in batches)
    weighted_parts = [
        (part, part.num_targets / total_targets) for batch in batches for part, _ in micro_batches(batch, micro_batch_size)
    ]
    term_sums: dict[str, float] = {}
    for part, weight in dist.shard(weighted_parts):
        for name, value in loss(part).items():
            term_sums[name] = term_sums.get(name, 0.0) + value.item() * weight
    return dict(zip(term_sums, dist.all_reduce([*term_sums.values()]), strict=True))


def micro_batches(batch: BatchT, micro_batch_size: int) -> Iterator[tuple[BatchT, float]]:
    """Yield micro-batches, each with its fraction of the batch's targets.

    Micro-batches without targets are skipped.
    """
    total_targets = batch.num_targets
    for start in range(0, batch.num_sequences, micro_batch_size):
        part = batch.select(slice(start, start + micro_batch_size))
        if count := part.num_targets:
            yield part, count / total_targets


def to_device(batch: BatchT, device: torch.device) -> BatchT:
    """Move a batch to a device."""
    return batch.map(lambda tensor: tensor.to(device))
