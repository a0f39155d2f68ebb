"""Normalize hidden states by their root mean square."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Apply root mean square layer normalization (arXiv 1910.07467).

    `eps` is added to the mean square.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return F.rms_norm(hidden_BTD, self.weight.shape, self.weight.to(hidden_BTD.dtype), self.eps)
