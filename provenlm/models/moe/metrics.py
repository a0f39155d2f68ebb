"""Measure how evenly the experts are used, from the routing of real tokens."""

import math

import torch
from torch import Tensor, nn

from provenlm.models.common.layers.moe_experts import count_tokens_per_expert
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.moe.model import MoEModel

ExpertMetrics = dict[str, tuple[float, str, str]]


@torch.no_grad()
def expert_metrics(model: nn.Module, tokens_BT: Tensor) -> ExpertMetrics:
    """Measure expert load, dead experts and router entropy on `tokens_BT`.

    There are metrics of each layer and over all layers.
    """
    assert isinstance(model, MoEModel)
    by_layer = [layer_metrics(routing) for routing in model.hidden_states(tokens_BT)[1]]
    overall = {
        "load_imbalance_max": (
            max(m["load_imbalance_max"] for m in by_layer),
            "",
            "tokens of the most loaded expert over the mean tokens of an expert",
        ),
        "load_imbalance_min": (
            min(m["load_imbalance_min"] for m in by_layer),
            "",
            "tokens of the least loaded expert over the mean tokens of an expert",
        ),
        "dead_experts": (sum(m["dead_experts"] for m in by_layer), "experts", "experts to which no token was sent"),
        "router_entropy": (
            sum(m["router_entropy"] for m in by_layer) / len(by_layer),
            "fraction",
            "mean entropy of a token's router probabilities over the entropy of uniform probabilities",
        ),
    }
    units = {name: (unit, description) for name, (_, unit, description) in overall.items()}
    described = {name: (value, unit, f"{text}, over all layers") for name, (value, unit, text) in overall.items()}
    return described | {
        f"layer_{i}.{name}": (value, units[name][0], f"{units[name][1]}, in layer {i}")
        for i, metrics in enumerate(by_layer)
        for name, value in metrics.items()
    }


def layer_metrics(routing: Routing) -> dict[str, float]:
    """Measure one layer.

    The load of an expert is its tokens over the mean: 1 for every expert where the load is even.
    """
    num_experts = routing.probabilities_NE.shape[-1]
    load_E = count_tokens_per_expert(routing.topk_ids_NK, num_experts) * num_experts / routing.topk_ids_NK.numel()
    entropy_N = torch.special.entr(routing.probabilities_NE).sum(-1)
    return {
        "load_imbalance_max": load_E.max().item(),
        "load_imbalance_min": load_E.min().item(),
        "dead_experts": float((load_E == 0).sum().item()),
        "router_entropy": entropy_N.mean().item() / math.log(num_experts) if num_experts > 1 else 0.0,
    }
