"""Rotary position embedding (arXiv 2104.09864): queries or keys in, the same turned by their positions out.

Component i of a head turns together with component i + H/2, as in Hugging Face's Llama and Mixtral, so that weights move
between them and us without a permutation.

Shapes: B batch, N heads, T positions, H components of a head.
"""

import torch
from torch import Tensor


def angles(length: int, head: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos_TH and sin_TH of positions 0 … length - 1, in float32: pair i turns by position · theta^(-2i/head)."""
    frequencies = theta ** -(torch.arange(0, head, 2, device=device, dtype=torch.float32) / head)
    angles_TH = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles_TH.cos(), angles_TH.sin()


def rotate(heads_BNTH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Turn every pair of components by its angle; lengths and the dtype stay."""
    first, second = heads_BNTH.chunk(2, -1)
    turned_BNTH = torch.cat((-second, first), -1)
    return (heads_BNTH * cos_TH + turned_BNTH * sin_TH).to(heads_BNTH.dtype)
