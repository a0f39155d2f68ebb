"""Define the objective of the music transformer: next-token cross-entropy.

Shapes: B batch, T positions, D hidden size, N = B·T tokens, V vocabulary.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.cross_entropy import chunked_cross_entropy
from provenlm.models.common.layers.decoder import param_group_of
from provenlm.models.common.objective import Objective, ParamGroupName
from provenlm.models.music_transformer.model import MusicTransformer


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """Return the one objective, next-token prediction.

    Targets equal to `ignore_index` carry no loss.
    """
    assert isinstance(model, MusicTransformer)
    param_groups: dict[ParamGroupName, list[nn.Parameter]] = {"embedding": [], "matrix": [], "default": []}
    for name, parameter in model.named_parameters():
        param_groups[param_group_of(name)].append(parameter)
    return [Objective("next_token", param_groups, partial(music_loss, model, ignore_index), "cross_entropy")]


def music_loss(model: MusicTransformer, ignore_index: int, batch: Any) -> Mapping[str, Tensor]:
    """Compute `cross_entropy`, and `loss` with the batch's label smoothing.

    Both are in nats per target that counts. `batch` is any batch with `inputs_BT` and `targets_BT`; `documents_BT` and
    `label_smoothing` are used where it has them.
    """
    states_ND = model.hidden_states(batch.inputs_BT, documents_BT=getattr(batch, "documents_BT", None))[0].flatten(0, 1)
    head_VD = model.lm_head_weight
    if model.head_bias is not None:  # the bias is one more column, which multiplies 1
        states_ND = torch.cat((states_ND, states_ND.new_ones(len(states_ND), 1)), -1)
        head_VD = torch.cat((head_VD, model.head_bias[:, None]), -1)
    smoothing = getattr(batch, "label_smoothing", 0.0)
    smoothed, nats = chunked_cross_entropy(states_ND, head_VD, batch.targets_BT.flatten(), ignore_index, smoothing)
    return {"loss": smoothed, "cross_entropy": nats}
