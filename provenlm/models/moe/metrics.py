"""Figures particular to this net: how evenly the experts are used, from a dispatch that really happened."""

import math

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.moe_experts import count_tokens_per_expert
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.moe.model import MoEModel

ExpertMetrics = dict[str, tuple[float, str, str]]


@torch.no_grad()
def expert_metrics(model: nn.Module, tokens_BT: Tensor) -> ExpertMetrics:
    """Expert load, dead experts and router entropy of `tokens_BT`, by layer and over all layers."""
    assert isinstance(model, MoEModel)
    by_layer = [layer_metrics(routing) for routing in model.hidden_states(tokens_BT)[1]]
    overall = {
        "load_max": (
            max(m["load_max"] for m in by_layer),
            "",
            "largest share of a layer's rows at one expert, over the mean share",
        ),
        "load_min": (
            min(m["load_min"] for m in by_layer),
            "",
            "smallest share of a layer's rows at one expert, over the mean share",
        ),
        "dead_experts": (sum(m["dead_experts"] for m in by_layer), "experts", "experts that no token was sent to, in all layers"),
        "router_entropy": (
            sum(m["router_entropy"] for m in by_layer) / len(by_layer),
            "share",
            "mean entropy of a token's router probabilities over that of an even choice",
        ),
    }
    units = {name: (unit, description) for name, (_, unit, description) in overall.items()}
    return overall | {
        f"layer_{i}.{name}": (value, units[name][0], f"{units[name][1].removesuffix(', in all layers')}, layer {i}")
        for i, metrics in enumerate(by_layer)
        for name, value in metrics.items()
    }


def layer_metrics(routing: Routing) -> dict[str, float]:
    """One layer's figures. A load is 1 where every expert gets as many rows as the mean."""
    num_experts = routing.probabilities_NE.shape[-1]
    load_E = count_tokens_per_expert(routing.topk_ids_NK, num_experts) * num_experts / routing.topk_ids_NK.numel()
    entropy_N = torch.special.entr(routing.probabilities_NE).sum(-1)
    return {
        "load_max": load_E.max().item(),
        "load_min": load_E.min().item(),
        "dead_experts": float((load_E == 0).sum().item()),
        "router_entropy": entropy_N.mean().item() / math.log(num_experts) if num_experts > 1 else 0.0,
    }
