"""Figures particular to this net: how evenly the experts are used, from a dispatch that really happened."""

import math

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.moe_experts import counts
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.moe.model import Decoder

Figures = dict[str, tuple[float, str, str]]


@torch.no_grad()
def probe(model: nn.Module, tokens_BT: Tensor) -> Figures:
    """Expert load, dead experts and router entropy of `tokens_BT`, by layer and over all layers."""
    assert isinstance(model, Decoder)
    by_layer = [of_layer(routing) for routing in model.states(tokens_BT)[1]]
    worst = {
        "load_max": (
            max(f["load_max"] for f in by_layer),
            "",
            "largest share of a layer's rows at one expert, over the mean share",
        ),
        "load_min": (
            min(f["load_min"] for f in by_layer),
            "",
            "smallest share of a layer's rows at one expert, over the mean share",
        ),
        "dead_experts": (sum(f["dead_experts"] for f in by_layer), "experts", "experts that no token was sent to, in all layers"),
        "router_entropy": (
            sum(f["router_entropy"] for f in by_layer) / len(by_layer),
            "share",
            "mean entropy of a token's router probabilities over that of an even choice",
        ),
    }
    units = {name: (unit, meaning) for name, (_, unit, meaning) in worst.items()}
    return worst | {
        f"layer_{i}.{name}": (value, units[name][0], f"{units[name][1].removesuffix(', in all layers')}, layer {i}")
        for i, figures in enumerate(by_layer)
        for name, value in figures.items()
    }


def of_layer(routing: Routing) -> dict[str, float]:
    """One layer's figures. A load is 1 where every expert gets as many rows as the mean."""
    n_experts = routing.probabilities_NE.shape[-1]
    load_E = counts(routing.chosen_NK, n_experts) * n_experts / routing.chosen_NK.numel()
    entropy_N = torch.special.entr(routing.probabilities_NE).sum(-1)
    return {
        "load_max": load_E.max().item(),
        "load_min": load_E.min().item(),
        "dead_experts": float((load_E == 0).sum().item()),
        "router_entropy": entropy_N.mean().item() / math.log(n_experts) if n_experts > 1 else 0.0,
    }
