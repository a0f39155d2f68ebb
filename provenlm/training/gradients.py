"""An objective and a batch in, the gradients of its parameters and the means of its terms out; no optimizer is touched.

Each pass counts by its share of the whole batch's targets, so the gradient does not depend on how the batch is cut.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from provenlm.training.objective import IGNORE, Batch, Objective

NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def gather(
    objective: Objective, batch: Batch, micro_batch: int, precision: str, scale: float, clip: float | None, device: torch.device
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Leave the clipped gradient of the whole batch in `.grad`; (the objective's terms, the gradient norm before clipping, and the
    same by role). On the way back through the net gradients are `scale` times as large."""
    parameters = [p for group in objective.parameters.values() for p in group if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    sums: dict[str, Tensor] = {}
    for part, share in parts(batch, micro_batch):
        found = terms(objective, to(part, device), precision)
        (found["loss"] * (share * scale)).backward()  # type: ignore[no-untyped-call]
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value.detach() * share
    if scale != 1:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / scale)
    norms = {
        role: nn.utils.get_total_norm([p.grad for p in own if p.grad is not None])
        for role, own in objective.parameters.items()
        if any(p.grad is not None for p in own)
    }
    norm = torch.stack([*norms.values()]).norm()
    nn.utils.clip_grads_with_norm_(parameters, math.inf if clip is None else clip, norm)
    return {name: value.item() for name, value in sums.items()}, norm.item(), {role: each.item() for role, each in norms.items()}


def terms(objective: Objective, batch: Batch, precision: str) -> Mapping[str, Tensor]:
    """The objective's terms in the wanted precision."""
    with torch.autocast(batch.inputs_BT.device.type, NARROW.get(precision), enabled=precision in NARROW):
        return objective.loss(batch)


def mean_terms(loss: Callable[[Batch], Mapping[str, Tensor]], batches: Sequence[Batch]) -> dict[str, float]:
    """Each term's mean over all targets of `batches`."""
    whole = sum(map(targets, batches))
    sums: dict[str, float] = {}
    for batch in batches:
        for name, value in loss(batch).items():
            sums[name] = sums.get(name, 0.0) + value.item() * targets(batch) / whole
    return sums


def parts(batch: Batch, rows: int) -> Iterator[tuple[Batch, float]]:
    """The batch in parts of `rows` rows, each with its share of the targets; a part without any is left out."""
    whole = targets(batch)
    for first in range(0, len(batch.inputs_BT), rows):
        part = batch.each(operator.itemgetter(slice(first, first + rows)))
        if count := targets(part):
            yield part, count / whole


def targets(batch: Batch) -> int:
    """How many targets carry loss."""
    return int((batch.targets_BT != IGNORE).sum())


def to(batch: Batch, device: torch.device) -> Batch:
    return batch.each(lambda each_BT: each_BT.to(device))
