"""Dispatches of a step's passes in; how evenly, and how surely, the routers sent the step's tokens to experts out.

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
    """Adds up passes until it is asked. Sums stay on the device, so that no pass waits for them."""

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self.shape = (num_layers, num_experts)
        self._reset()

    def _reset(self) -> None:
        self.num_assignments, self.num_tokens = (
            0,
            0,
        )  # pairs of a token and one of its experts, of all layers; those choices that were made
        self.counts_LE, self.entropy = torch.zeros(self.shape, device="cpu"), torch.zeros(1, device="cpu")

    @torch.no_grad()
    def update(self, routings: Sequence[Routing]) -> None:
        """Add one pass."""
        counts_LE = torch.stack(
            [count_tokens_per_expert(routing.topk_ids_NK, routing.logits_NE.shape[1]) for routing in routings]
        ).float()
        entropy = torch.stack([torch.special.entr(routing.probabilities_NE).sum() for routing in routings]).sum(0, keepdim=True)
        self.counts_LE = self.counts_LE + counts_LE if self.num_assignments else counts_LE
        self.entropy = self.entropy + entropy if self.num_assignments else entropy
        self.num_assignments += sum(routing.topk_ids_NK.numel() for routing in routings)
        self.num_tokens += sum(len(routing.topk_ids_NK) for routing in routings)

    def compute(self) -> StepMetrics:
        """Figures of all passes since it was last asked, in all processes, each of which must ask; then they are forgotten.

        Nothing if there was none.
        """
        totals = self.counts_LE.new_tensor([self.num_assignments, self.num_tokens])
        sums = (
            torch.cat([self.counts_LE.flatten(), self.entropy, totals]).double().cpu()
        )  # also where a pass is yet to say its type and device
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        *flat, entropy, num_assignments, num_tokens = sums.tolist()
        self._reset()
        return (
            _load_metrics(torch.tensor(flat, dtype=torch.float64).view(self.shape), entropy / num_tokens, num_assignments)
            if num_assignments
            else {}
        )


def _load_metrics(counts_LE: Tensor, entropy: float, num_assignments: float) -> StepMetrics:
    load_LE = counts_LE / counts_LE.mean(1, keepdim=True)
    normalized_entropy = entropy / math.log(counts_LE.shape[1]) if counts_LE.shape[1] > 1 else 0.0
    scope = "in a step, of all layers"
    return {
        "experts.load_max": (load_LE.max().item(), "× the mean", f"tokens at the busiest expert of a layer {scope}"),
        "experts.load_min": (load_LE.min().item(), "× the mean", f"tokens at the idlest expert of a layer {scope}"),
        "experts.dead": ((counts_LE == 0).sum().item(), "experts", f"that no token was sent to {scope}"),
        "experts.dropped": (
            num_assignments - counts_LE.sum().item(),
            "tokens",
            f"that met fewer experts than chosen {scope}: no expert is ever full",
        ),
        "router.entropy": (
            normalized_entropy,
            "share",
            "mean entropy of a token's router probabilities, over that of an even choice",
        ),
    }
