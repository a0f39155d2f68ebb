"""Dispatches of a step's passes in; how evenly, and how surely, the routers sent the step's tokens to experts out.

Shapes: L layers, E experts.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from provenlm.models.common.layers.moe_experts import counts
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.common.objective import Told


class Traffic:
    """Adds up passes until it is asked. Sums stay on the device, so that no pass waits for them."""

    def __init__(self, layers: int, experts: int) -> None:
        self.shape = (layers, experts)
        self._forget()

    def _forget(self) -> None:
        self.sent, self.choices = 0, 0  # pairs of a token and one of its experts, of all layers; those choices that were made
        self.counts_LE, self.entropy = torch.zeros(self.shape, device="cpu"), torch.zeros(1, device="cpu")

    @torch.no_grad()
    def note(self, routings: Sequence[Routing]) -> None:
        """Add one pass."""
        counts_LE = torch.stack([counts(routing.chosen_NK, routing.logits_NE.shape[1]) for routing in routings]).float()
        entropy = torch.stack([torch.special.entr(routing.probabilities_NE).sum() for routing in routings]).sum(0, keepdim=True)
        self.counts_LE = self.counts_LE + counts_LE if self.sent else counts_LE
        self.entropy = self.entropy + entropy if self.sent else entropy
        self.sent += sum(routing.chosen_NK.numel() for routing in routings)
        self.choices += sum(len(routing.chosen_NK) for routing in routings)

    def told(self) -> Told:
        """Figures of all passes since it was last asked, in all processes, each of which must ask; then they are forgotten.

        Nothing if there was none.
        """
        host = self.counts_LE.new_tensor([self.sent, self.choices])
        sums = (
            torch.cat([self.counts_LE.flatten(), self.entropy, host]).double().cpu()
        )  # also where a pass is yet to say its type and device
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        *flat, entropy, sent, choices = sums.tolist()
        self._forget()
        return _figures(torch.tensor(flat, dtype=torch.float64).view(self.shape), entropy / choices, sent) if sent else {}


def _figures(counts_LE: Tensor, entropy: float, sent: float) -> Told:
    load_LE = counts_LE / counts_LE.mean(1, keepdim=True)
    sure = entropy / math.log(counts_LE.shape[1]) if counts_LE.shape[1] > 1 else 0.0
    said = "in a step, of all layers"
    return {
        "experts.load_max": (load_LE.max().item(), "× the mean", f"tokens at the busiest expert of a layer {said}"),
        "experts.load_min": (load_LE.min().item(), "× the mean", f"tokens at the idlest expert of a layer {said}"),
        "experts.dead": ((counts_LE == 0).sum().item(), "experts", f"that no token was sent to {said}"),
        "experts.dropped": (
            sent - counts_LE.sum().item(),
            "tokens",
            f"that met fewer experts than chosen {said}: no expert is ever full",
        ),
        "router.entropy": (sure, "share", "mean entropy of a token's router probabilities, over that of an even choice"),
    }
