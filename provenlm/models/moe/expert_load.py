"""Accumulate the routing of a training step and report expert load.

Shapes: L layers, E experts.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from provenlm.models.common.layers.moe_experts import count_tokens_per_expert
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.common.objective import StepMetrics


class ExpertLoadMeter:
    """Accumulate the routing of forward passes.

    The sums stay on the device, so that no pass waits for them.
    """

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self.shape = (num_layers, num_experts)
        self._reset()

    def _reset(self) -> None:
        self.num_assignments = 0  # (token, expert) pairs, over all layers
        self.num_decisions = 0  # (token, layer) pairs
        self.counts_LE, self.entropy = torch.zeros(self.shape, device="cpu"), torch.zeros(1, device="cpu")

    @torch.no_grad()
    def update(self, routings: Sequence[Routing]) -> None:
        """Add the routing of one forward pass, one item a layer."""
        counts_LE = torch.stack(
            [count_tokens_per_expert(routing.topk_ids_NK, routing.logits_NE.shape[1]) for routing in routings]
        ).float()
        entropy = torch.stack([torch.special.entr(routing.probabilities_NE).sum() for routing in routings]).sum(0, keepdim=True)
        self.counts_LE = self.counts_LE + counts_LE if self.num_assignments else counts_LE
        self.entropy = self.entropy + entropy if self.num_assignments else entropy
        self.num_assignments += sum(routing.topk_ids_NK.numel() for routing in routings)
        self.num_decisions += sum(len(routing.topk_ids_NK) for routing in routings)

    def compute(self) -> StepMetrics:
        """Return the metrics of all passes since the last call and reset.

        Returns {} if there was none. In a distributed run every process must call it: the sums are over all processes.
        """
        totals = self.counts_LE.new_tensor([self.num_assignments, self.num_decisions])
        # to float64 on the CPU: also where no pass has set a type and a device yet
        sums = torch.cat([self.counts_LE.flatten(), self.entropy, totals]).double().cpu()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        *flat, entropy, num_assignments, num_decisions = sums.tolist()
        self._reset()
        if not num_assignments:
            return {}
        return _load_metrics(torch.tensor(flat, dtype=torch.float64).view(self.shape), entropy / num_decisions, num_assignments)


def _load_metrics(counts_LE: Tensor, entropy: float, num_assignments: float) -> StepMetrics:
    load_LE = counts_LE / counts_LE.mean(1, keepdim=True)
    normalized_entropy = entropy / math.log(counts_LE.shape[1]) if counts_LE.shape[1] > 1 else 0.0
    step = "in a training step, over all layers"
    return {
        "moe.load_imbalance_max": (
            load_LE.max().item(),
            "",
            f"tokens of the most loaded expert over the mean of its layer, {step}",
        ),
        "moe.load_imbalance_min": (
            load_LE.min().item(),
            "",
            f"tokens of the least loaded expert over the mean of its layer, {step}",
        ),
        "moe.dead_experts": ((counts_LE == 0).sum().item(), "experts", f"experts to which no token was sent {step}"),
        "moe.dropped_tokens": (
            num_assignments - counts_LE.sum().item(),
            "tokens",
            f"(token, expert) pairs that no expert computed {step}; 0, because experts have no capacity limit",
        ),
        "moe.router_entropy": (
            normalized_entropy,
            "fraction",
            f"mean entropy of a token's router probabilities over the entropy of uniform probabilities, {step}",
        ),
    }
