"""Apply rotary position embeddings (arXiv 2104.09864) to queries and keys.

Component i of a head is rotated together with component i + H/2, as in Hugging Face's Llama and Mixtral, so that weights can be
exchanged with them without a permutation.

Shapes: B batch, N heads, T positions, H head size; … any leading axes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RopeCache(NamedTuple):
    """Hold cosine and sine by position, (…, T, H), in float32."""

    cos: Tensor
    sin: Tensor


def rope_cos_sin(positions: Tensor, head_dim: int, theta: float) -> RopeCache:
    """Compute the rotation of `positions`, int64 (…, T).

    Pair i rotates by position · theta^(-2i/head_dim).
    """
    frequencies = theta ** -(torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = (positions.to(torch.float32)[..., None] * frequencies).repeat(*[1] * positions.ndim, 2)
    return RopeCache(angles.cos(), angles.sin())


def apply_rotary_emb(heads_BNTH: Tensor, rope: RopeCache) -> Tensor:
    """Rotate every pair of components by its angle.

    The norm and the dtype do not change.
    """
    first, second = heads_BNTH.chunk(2, -1)
    rotated_BNTH = torch.cat((-second, first), -1)
    return (heads_BNTH * rope.cos + rotated_BNTH * rope.sin).to(heads_BNTH.dtype)
