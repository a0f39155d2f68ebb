"""Define the training objective of the dense decoder: next-token cross-entropy."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from provenlm.models.common.layers.cross_entropy import chunked_cross_entropy
from provenlm.models.common.layers.decoder import param_group_of
from provenlm.models.common.objective import Batch, Objective, ParamGroupName
from provenlm.models.gpt.model import GPTModel


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """Return the one objective, next-token prediction; targets equal to `ignore_index` carry no loss."""
    assert isinstance(model, GPTModel)
    param_groups: dict[ParamGroupName, list[nn.Parameter]] = {"embedding": [], "matrix": [], "default": []}
    for name, parameter in model.named_parameters():
        param_groups[param_group_of(name)].append(parameter)
    return [Objective("next_token", param_groups, partial(gpt_loss, model, ignore_index), "cross_entropy")]


def gpt_loss(model: GPTModel, ignore_index: int, batch: Batch) -> Mapping[str, Tensor]:
    """Compute `cross_entropy`, in nats per target that counts, and `loss`: the same with the batch's label smoothing."""
    states_BTD, _ = model.hidden_states(batch.inputs_BT, documents_BT=batch.documents_BT)
    states_ND, targets_N = states_BTD.flatten(0, 1), batch.targets_BT.flatten()
    smoothed, nats = chunked_cross_entropy(states_ND, model.lm_head_weight, targets_N, ignore_index, batch.label_smoothing)
    return {"loss": smoothed, "cross_entropy": nats}
