"""An objective and a batch in, the gradients of its parameters and the means of its terms out; no optimizer is touched.

Each pass counts by its share of the whole batch's targets, so the gradient does not depend on how the batch is cut.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from provenlm.models.common.objective import IGNORE, Batch, Objective
from provenlm.training.distributed import fsdp
from provenlm.training.distributed.process_group import ALONE, Crew

NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def gather(
    objective: Objective, batch: Batch, micro_batch: int, precision: str, scale: float, clip: float | None, device: torch.device
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Leave the clipped gradient of the whole batch in `.grad`; (the objective's terms, the gradient norm before clipping, and the
    same by role). On the way back through the net gradients are `scale` times as large."""
    return settled(objective, passes(objective, batch, micro_batch, precision, scale, device, ALONE), scale, clip, ALONE)


def passes(
    objective: Objective, batch: Batch, micro_batch: int, precision: str, scale: float, device: torch.device, crew: Crew
) -> dict[str, Tensor]:
    """Leave `scale` times the gradient of this process's share of the batch in `.grad`; what the share adds to the objective's terms."""
    for parameter in _trained(objective):
        parameter.grad = None
    sums: dict[str, Tensor] = {}
    for part, share in crew.own(parts(batch, micro_batch)):
        found = terms(objective, to(part, device), precision)
        (found["loss"] * (share * scale)).backward()  # type: ignore[no-untyped-call]
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value.detach() * share
    return sums


def settled(
    objective: Objective, sums: Mapping[str, Tensor], scale: float, clip: float | None, crew: Crew
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Make of every process's `passes` the gradient of the whole batch, clipped; (terms, norm before clipping, and that by role)."""
    parameters = _trained(objective)
    crew.add(parameters)
    if scale != 1:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / scale)
    norms = {
        role: fsdp.whole(nn.utils.get_total_norm([p.grad for p in own if p.grad is not None]))
        for role, own in objective.parameters.items()
        if any(p.grad is not None for p in own)
    }
    norm = torch.stack([*norms.values()]).norm()
    nn.utils.clip_grads_with_norm_(parameters, math.inf if clip is None else clip, norm)
    terms = crew.sums([value.item() for value in sums.values()])
    norm_said, *norms_said = crew.said([norm.item(), *(each.item() for each in norms.values())])
    return dict(zip(sums, terms, strict=True)), norm_said, dict(zip(norms, norms_said, strict=True))


def _trained(objective: Objective) -> list[nn.Parameter]:
    return [p for group in objective.parameters.values() for p in group if p.requires_grad]


def terms(objective: Objective, batch: Batch, precision: str) -> Mapping[str, Tensor]:
    """The objective's terms in the wanted precision."""
    with torch.autocast(batch.inputs_BT.device.type, NARROW.get(precision), enabled=precision in NARROW):
        return objective.loss(batch)


def mean_terms(loss: Callable[[Batch], Mapping[str, Tensor]], batches: Sequence[Batch], rows: int, crew: Crew) -> dict[str, float]:
    """Each term's mean over all targets of `batches`, `rows` rows at a time."""
    whole = sum(map(targets, batches))
    cut = [(part, targets(part) / whole) for batch in batches for part, _ in parts(batch, rows)]
    sums: dict[str, float] = {}
    for part, share in crew.own(cut):
        for name, value in loss(part).items():
            sums[name] = sums.get(name, 0.0) + value.item() * share
    return dict(zip(sums, crew.sums([*sums.values()]), strict=True))


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
