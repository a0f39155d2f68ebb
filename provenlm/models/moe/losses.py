"""What training makes small: cross-entropy of the next token, and the router's own losses."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.cross_entropy import chunked_cross_entropy
from provenlm.models.common.layers.decoder import param_group_of
from provenlm.models.common.layers.moe_router import Routing, global_load_balancing_loss, load_balancing_loss, z_loss
from provenlm.models.common.objective import Batch, Objective, ParamGroupName, StepMetrics
from provenlm.models.moe.model import MoEModel


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """One: the next token. Targets equal to `ignore` carry no loss."""
    assert isinstance(model, MoEModel)
    return [
        Objective(
            "next_token", param_groups(model), partial(moe_loss, model, ignore_index), "cross_entropy", partial(post_step, model)
        )
    ]


def param_groups(model: MoEModel) -> dict[ParamGroupName, list[nn.Parameter]]:
    """Every parameter of the net by what it is."""
    groups: dict[ParamGroupName, list[nn.Parameter]] = {"embedding": [], "matrix": [], "rest": []}
    for name, parameter in model.named_parameters():
        groups[param_group_of(name)].append(parameter)
    return groups


def moe_loss(model: MoEModel, ignore_index: int, batch: Batch) -> Mapping[str, Tensor]:
    """`loss` = cross_entropy (smoothed where the batch asks for it) + weighted balance + weighted z; in nats per target that counts.

    With a bias the balance is measured layer by layer and not minimised; in training it is noted where tokens were sent.
    """
    config = model.config
    states_BTD, routings = model.hidden_states(batch.inputs_BT, documents_BT=batch.documents_BT)
    states_ND, targets_N = states_BTD.flatten(0, 1), batch.targets_BT.flatten()
    smoothed, nats = chunked_cross_entropy(states_ND, model.lm_head_weight, targets_N, ignore_index, batch.label_smoothing)
    load_balancing = load_balancing_term(config.load_balancing, routings)
    z = torch.stack([z_loss(routing) for routing in routings]).mean()
    total = smoothed + config.z_loss_weight * z
    if config.load_balancing != "bias":
        total = total + config.load_balancing_weight * load_balancing
    if model.training:
        record_load(model, routings)
    return {"loss": total, "cross_entropy": nats, "balance": load_balancing, "router_z": z}


def record_load(model: MoEModel, routings: list[Routing]) -> None:
    """Remember where tokens were sent: for the step's figures, and for the biases where there are some."""
    model.expert_load.update(routings)
    if model.config.load_balancing == "bias":
        for router, routing in zip(model.routers, routings, strict=True):
            router.accumulate_load(routing)


def post_step(model: MoEModel, applied: bool) -> StepMetrics:
    """The step's figures. Where routers have biases they move; a step that was not applied moves none, and its tokens are forgotten."""
    if model.config.load_balancing == "bias":
        for router in model.routers:
            router.update_expert_bias(model.config.load_balancing_weight if applied else 0.0)
    return model.expert_load.compute()


def load_balancing_term(method: str, routings: list[Routing]) -> Tensor:
    """The load balancing loss of all layers in one of its two published forms."""
    if method == "joint":
        return global_load_balancing_loss(routings)
    return torch.stack([load_balancing_loss(routing) for routing in routings]).mean()
