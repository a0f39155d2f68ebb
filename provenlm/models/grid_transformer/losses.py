"""Define the objective of the grid transformer: cross-entropy of output cells.

Shapes: B sequences, T positions, N cells, C colours.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.objective import Objective, ParamGroupName
from provenlm.models.grid_transformer.model import GridTransformer


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """Return the one objective, the colours of output cells.

    Targets equal to `ignore_index` carry no loss.
    """
    assert isinstance(model, GridTransformer)
    param_groups: dict[ParamGroupName, list[nn.Parameter]] = {"embedding": [], "matrix": [], "default": []}
    for name, parameter in model.named_parameters():
        param_groups[param_group_of(name)].append(parameter)
    return [Objective("output_cells", param_groups, partial(output_cell_loss, model, ignore_index), "cross_entropy")]


def param_group_of(name: str) -> ParamGroupName:
    """Return the optimizer group of a parameter.

    embedding: embeddings and output layer; matrix: attention and feed-forward; default: norms, neighbour weights and copy bias.
    """
    if name.startswith("embed_") or name == "head.weight":
        return "embedding"
    return "matrix" if name.endswith("_proj.weight") else "default"


def output_cell_loss(model: GridTransformer, ignore_index: int, batch: Any) -> Mapping[str, Tensor]:
    """Compute the cross-entropy in nats per target.

    `correct` is the fraction of targets that are the most probable colour.

    `batch` is any batch with the fields that the model uses, and `targets_BT`.
    """
    logits_NC, layout = model.cell_logits(batch)
    targets_N = batch.targets_BT.flatten()[layout.slots_N]
    with torch.autocast(logits_NC.device.type, enabled=False):
        logits_NC = logits_NC.to(torch.promote_types(logits_NC.dtype, torch.float32))
        nats = F.cross_entropy(logits_NC, targets_N, ignore_index=ignore_index)
    is_target_N = targets_N != ignore_index
    correct = ((logits_NC.argmax(-1) == targets_N) & is_target_N).sum() / is_target_N.sum()
    return {"loss": nats, "cross_entropy": nats, "correct": correct}
