"""Route each token to its top-k experts and compute the router's losses.

Shapes: N tokens, D hidden size, E experts, K experts a token, L layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.moe_experts import count_tokens_per_expert


class Routing(NamedTuple):
    """Hold the routing of one layer.

    The `weights_NK` of a token sum to 1; `probabilities_NE` are over all experts.
    """

    topk_ids_NK: Tensor
    weights_NK: Tensor
    probabilities_NE: Tensor
    logits_NE: Tensor


class Router(nn.Module):
    """Take the softmax over all experts and renormalize the top k.

    As in Mixtral (arXiv 2401.04088), in float32 or wider. With `use_expert_bias` an expert's bias is added for the top-k selection
    only (Wang et al. 2024, arXiv 2408.15664). The bias is a buffer in the state dict, not a parameter: it has no gradient,
    `update_expert_bias` changes it.
    """

    bias_E: Tensor | None
    tokens_per_expert_E: Tensor | None

    def __init__(self, hidden_size: int, num_experts: int, top_k: int, use_expert_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.top_k = top_k
        self.register_buffer("bias_E", torch.zeros(num_experts) if use_expert_bias else None)
        tokens_per_expert_E = torch.zeros(num_experts) if use_expert_bias else None  # since the last update of the bias
        self.register_buffer("tokens_per_expert_E", tokens_per_expert_E, persistent=False)

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
        """Add the number of tokens that each expert received."""
        assert self.tokens_per_expert_E is not None
        self.tokens_per_expert_E += count_tokens_per_expert(routing.topk_ids_NK, self.tokens_per_expert_E.numel())

    @torch.no_grad()
    def update_expert_bias(self, rate: float) -> None:
        """Raise the bias of experts with less than the mean load by `rate`.

        Lowers it for more than the mean load, and resets the load. In a distributed run the load is the sum over all processes.
        """
        assert self.bias_E is not None and self.tokens_per_expert_E is not None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.tokens_per_expert_E)
        self.bias_E += rate * torch.sign(self.tokens_per_expert_E.mean() - self.tokens_per_expert_E)
        self.tokens_per_expert_E.zero_()


def load_balancing_loss(routing: Routing) -> Tensor:
    """Compute E · Σ_e f_e · P_e (Switch Transformer, arXiv 2101.03961, eq. 4).

    f_e counts the tokens sent to expert e over all tokens, P_e is its mean probability. f counts each of a token's K experts, as in
    Mixtral: an even load gives K, all load on one expert gives E.
    """
    num_experts = routing.probabilities_NE.shape[-1]
    dispatched_E = count_tokens_per_expert(routing.topk_ids_NK, num_experts) / routing.topk_ids_NK.shape[0]
    return num_experts * (dispatched_E * routing.probabilities_NE.mean(0)).sum()


def global_load_balancing_loss(routings: Sequence[Routing]) -> Tensor:
    """Compute the load-balancing loss of Hugging Face's Mixtral.

    It averages f and P over layers before multiplying them.
    """
    merged = Routing(*(torch.cat(parts) for parts in zip(*routings, strict=True)))
    return load_balancing_loss(merged)


def z_loss(routing: Routing) -> Tensor:
    """Compute the mean square of log Σ exp of the router's logits.

    ST-MoE, arXiv 2202.08906, eq. 5.
    """
    return routing.logits_NE.logsumexp(-1).square().mean()
