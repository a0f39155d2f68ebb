"""Compute the next-token loss of a decoder on a batch.

Shapes: B sequences, T positions, D hidden size, N = B·T tokens.
"""

from typing import Any

from torch import Tensor

from provenlm.models.common.layers.cross_entropy import chunked_cross_entropy
from provenlm.models.common.layers.decoder import Decoder
from provenlm.models.common.layers.moe_router import Routing


def next_token_loss(model: Decoder, ignore_index: int, batch: Any) -> tuple[Tensor, Tensor, list[Routing]]:
    """Return (loss with label smoothing, plain cross-entropy, routings of experts).

    Both losses are means in nats per target; there is a routing for each layer with experts. `batch` is any batch with `inputs_BT`
    and `targets_BT`; `documents_BT` (no attention between documents) and `label_smoothing` are used where it has them, so that a
    domain's own batches train decoders too.
    """
    states_BTD, routings = model.hidden_states(batch.inputs_BT, documents_BT=getattr(batch, "documents_BT", None))
    states_ND, targets_N = states_BTD.flatten(0, 1), batch.targets_BT.flatten()
    label_smoothing = getattr(batch, "label_smoothing", 0.0)
    smoothed, nats = chunked_cross_entropy(states_ND, model.lm_head_weight, targets_N, ignore_index, label_smoothing)
    return smoothed, nats, routings
