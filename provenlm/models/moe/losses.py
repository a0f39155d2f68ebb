"""Define the objective: next-token cross-entropy plus the router's losses."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.decoder import param_group_of
from provenlm.models.common.layers.moe_router import Routing, global_load_balancing_loss, load_balancing_loss, z_loss
from provenlm.models.common.next_token import next_token_loss
from provenlm.models.common.objective import Objective, ParamGroupName, StepMetrics, TokenBatch
from provenlm.models.moe.model import MoEModel


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """Return the one objective, next-token prediction.

    Targets equal to `ignore_index` carry no loss.
    """
    assert isinstance(model, MoEModel)
    terms = ("router_z",) if model.config.load_balancing == "bias" else ("load_balancing", "router_z")
    loss = partial(moe_loss, model, ignore_index)
    return [Objective("next_token", param_groups(model), loss, "cross_entropy", partial(post_step, model), terms)]


def param_groups(model: MoEModel) -> dict[ParamGroupName, list[nn.Parameter]]:
    """Group the parameters of the model by optimizer config."""
    groups: dict[ParamGroupName, list[nn.Parameter]] = {"embedding": [], "matrix": [], "default": []}
    for name, parameter in model.named_parameters():
        groups[param_group_of(name)].append(parameter)
    return groups


def moe_loss(model: MoEModel, ignore_index: int, batch: TokenBatch) -> Mapping[str, Tensor]:
    """Compute the loss terms, in nats per target that counts.

    `loss` = cross_entropy (with the batch's label smoothing) + weighted load_balancing + weighted router_z. With expert biases the
    load-balancing term is measured in each layer but not minimized. In training mode the expert load is accumulated.
    """
    config = model.config
    smoothed, nats, routings = next_token_loss(model, ignore_index, batch)
    load_balancing = load_balancing_term(config.load_balancing, routings)
    z = torch.stack([z_loss(routing) for routing in routings]).mean()
    total = smoothed + config.z_loss_weight * z
    if config.load_balancing != "bias":
        total = total + config.load_balancing_weight * load_balancing
    if model.training:
        record_load(model, routings)
    return {"loss": total, "cross_entropy": nats, "load_balancing": load_balancing, "router_z": z}


def record_load(model: MoEModel, routings: list[Routing]) -> None:
    """Accumulate the expert load of a pass for metrics and expert biases."""
    model.expert_load.update(routings)
    if model.config.load_balancing == "bias":
        for router, routing in zip(model.routers, routings, strict=True):
            router.accumulate_load(routing)


def post_step(model: MoEModel, applied: bool) -> StepMetrics:
    """Update the expert biases, if there are any, and return the metrics of the step.

    A skipped step (not `applied`) changes no bias, and its load is discarded.
    """
    if model.config.load_balancing == "bias":
        for router in model.routers:
            router.update_expert_bias(model.config.load_balancing_weight if applied else 0.0)
    return model.expert_load.compute()


def load_balancing_term(method: str, routings: list[Routing]) -> Tensor:
    """Compute the load-balancing loss of all layers in one of its two published forms."""
    if method == "global_aux_loss":
        return global_load_balancing_loss(routings)
    return torch.stack([load_balancing_loss(routing) for routing in routings]).mean()
