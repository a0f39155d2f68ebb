"""Define the training objective of the dense decoder: next-token cross-entropy."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from provenlm.models.common.layers.decoder import param_group_of
from provenlm.models.common.next_token import next_token_loss
from provenlm.models.common.objective import Objective, ParamGroupName, TokenBatch
from provenlm.models.gpt.model import GPTModel


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """Return the one objective, next-token prediction.

    Targets equal to `ignore_index` carry no loss.
    """
    assert isinstance(model, GPTModel)
    param_groups: dict[ParamGroupName, list[nn.Parameter]] = {"embedding": [], "matrix": [], "default": []}
    for name, parameter in model.named_parameters():
        param_groups[param_group_of(name)].append(parameter)
    return [Objective("next_token", param_groups, partial(gpt_loss, model, ignore_index), "cross_entropy")]


def gpt_loss(model: GPTModel, ignore_index: int, batch: TokenBatch) -> Mapping[str, Tensor]:
    """Compute `cross_entropy`, and `loss` with the batch's label smoothing.

    Both are in nats per target that counts.
    """
    smoothed, nats, _ = next_token_loss(model, ignore_index, batch)
    return {"loss": smoothed, "cross_entropy": nats}
