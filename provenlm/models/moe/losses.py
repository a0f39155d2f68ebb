"""What training makes small: cross-entropy of the next token, and the router's own losses."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.cross_entropy import smoothed_cross_entropy
from provenlm.models.common.layers.decoder import role_of
from provenlm.models.common.layers.moe_router import Routing, balance_loss, joint_balance_loss, z_loss
from provenlm.models.common.objective import Batch, Objective, Role, Told
from provenlm.models.moe.model import Decoder


def objectives(model: nn.Module, ignore: int) -> list[Objective]:
    """One: the next token. Targets equal to `ignore` carry no loss."""
    assert isinstance(model, Decoder)
    return [Objective("next_token", roles(model), partial(loss, model, ignore), "cross_entropy", partial(after, model))]


def roles(model: Decoder) -> dict[Role, list[nn.Parameter]]:
    """Every parameter of the net by what it is."""
    by_role: dict[Role, list[nn.Parameter]] = {"embedding": [], "matrix": [], "rest": []}
    for name, parameter in model.named_parameters():
        by_role[role_of(name)].append(parameter)
    return by_role


def loss(model: Decoder, ignore: int, batch: Batch) -> Mapping[str, Tensor]:
    """`loss` = cross_entropy (smoothed where the batch asks for it) + weighted balance + weighted z; in nats per target that counts.

    With a bias the balance is measured layer by layer and not minimised; in training it is noted where tokens were sent.
    """
    settings = model.settings
    states_BTD, routings = model.states(batch.inputs_BT, documents_BT=batch.documents_BT)
    states_ND, targets_N = states_BTD.flatten(0, 1), batch.targets_BT.flatten()
    smoothed, nats = smoothed_cross_entropy(states_ND, model.head, targets_N, ignore, batch.smoothing)
    balance = balance_of(settings.balance, routings)
    z = torch.stack([z_loss(routing) for routing in routings]).mean()
    total = smoothed + settings.z_weight * z
    if settings.balance != "bias":
        total = total + settings.balance_weight * balance
    if model.training:
        note(model, routings)
    return {"loss": total, "cross_entropy": nats, "balance": balance, "router_z": z}


def note(model: Decoder, routings: list[Routing]) -> None:
    """Remember where tokens were sent: for the step's figures, and for the biases where there are some."""
    model.traffic.note(routings)
    if model.settings.balance == "bias":
        for router, routing in zip(model.routers, routings, strict=True):
            router.note(routing)


def after(model: Decoder, applied: bool) -> Told:
    """The step's figures. Where routers have biases they move; a step that was not applied moves none, and its tokens are forgotten."""
    if model.settings.balance == "bias":
        for router in model.routers:
            router.rebalance(model.settings.balance_weight if applied else 0.0)
    return model.traffic.told()


def balance_of(form: str, routings: list[Routing]) -> Tensor:
    """The load balancing loss of all layers in one of its two published forms."""
    if form == "joint":
        return joint_balance_loss(routings)
    return torch.stack([balance_loss(routing) for routing in routings]).mean()
