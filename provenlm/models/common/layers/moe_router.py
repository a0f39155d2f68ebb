"""The router: token states in, for each token its experts and their weights out, with what the router's own losses need.

Shapes: N tokens, D hidden, E experts, K experts a token, L layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers import moe_experts as experts


class Routing(NamedTuple):
    """One layer's dispatch. Each token's `weights_NK` add up to 1; `probabilities_NE` are before the choice."""

    topk_ids_NK: Tensor
    weights_NK: Tensor
    probabilities_NE: Tensor
    logits_NE: Tensor


class Router(nn.Module):
    """Softmax over all experts, the K largest, renormalised to add up to 1 (Mixtral, arXiv 2401.04088); in float32 or wider.

    `biased`: an expert's bias is added where the K are chosen, and there alone (Wang et al. 2024, arXiv 2408.15664). It is no
    parameter but a buffer of the checkpoint: no gradient reaches it, `rebalance` moves it.
    """

    bias_E: Tensor | None
    tokens_per_expert_E: Tensor | None

    def __init__(self, hidden_size: int, num_experts: int, top_k: int, use_expert_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.top_k = top_k
        self.register_buffer("bias_E", torch.zeros(num_experts) if use_expert_bias else None)
        self.register_buffer(
            "load_E", torch.zeros(num_experts) if use_expert_bias else None, persistent=False
        )  # since the bias was moved

    def forward(self, states_ND: Tensor) -> Routing:
        accum_dtype = torch.promote_types(states_ND.dtype, torch.float32)
        with torch.autocast(states_ND.device.type, enabled=False):
            logits_NE = F.linear(states_ND.to(accum_dtype), self.weight.to(accum_dtype))
        probabilities_NE = logits_NE.softmax(-1)
        if self.bias_E is None:
            weights_NK, topk_ids_NK = probabilities_NE.topk(self.top_k, -1)
        else:
            topk_ids_NK = (probabilities_NE + self.bias_E).topk(self.top_k, -1).indices
            weights_NK = probabilities_NE.gather(-1, topk_ids_NK)
        return Routing(topk_ids_NK, weights_NK / weights_NK.sum(-1, keepdim=True), probabilities_NE, logits_NE)

    @torch.no_grad()
    def accumulate_load(self, routing: Routing) -> None:
        """Remember how many rows each expert got."""
        assert self.tokens_per_expert_E is not None
        self.tokens_per_expert_E += experts.count_tokens_per_expert(routing.topk_ids_NK, self.tokens_per_expert_E.numel())

    @torch.no_grad()
    def update_expert_bias(self, rate: float) -> None:
        """Move the bias of each expert by `rate` towards an even load: up where it got fewer rows than the mean. Forget the rows.

        Where there are several processes, the load is that of all.
        """
        assert self.bias_E is not None and self.tokens_per_expert_E is not None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.tokens_per_expert_E)
        self.bias_E += rate * torch.sign(self.tokens_per_expert_E.mean() - self.tokens_per_expert_E)
        self.tokens_per_expert_E.zero_()


def load_balancing_loss(routing: Routing) -> Tensor:
    """E · Σ_e f_e · P_e (Switch, arXiv 2101.03961, eq. 4): f_e from the dispatch that happened, P_e the mean probability.

    f counts each of a token's K experts, as Mixtral does: an even load gives K, all load on one expert E.
    """
    num_experts = routing.probabilities_NE.shape[-1]
    dispatched_E = experts.count_tokens_per_expert(routing.topk_ids_NK, num_experts) / routing.topk_ids_NK.shape[0]
    return num_experts * (dispatched_E * routing.probabilities_NE.mean(0)).sum()


def global_load_balancing_loss(routings: Sequence[Routing]) -> Tensor:
    """The balance loss as Hugging Face's Mixtral has it: f and P are averaged over the layers before they are multiplied."""
    merged = Routing(*(torch.cat(parts) for parts in zip(*routings, strict=True)))
    return load_balancing_loss(merged)


def z_loss(routing: Routing) -> Tensor:
    """Mean square of log Σ exp of the router's logits (ST-MoE, arXiv 2202.08906, eq. 5): keeps them small."""
    return routing.logits_NE.logsumexp(-1).square().mean()
