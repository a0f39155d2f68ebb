"""Check rotary embeddings and RMSNorm against values worked out by hand."""

import math

import pytest
import torch

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.rms_norm import RMSNorm


def test_component_i_rotates_with_component_i_plus_half_a_head() -> None:
    rope = rotary.rope_cos_sin(torch.arange(2), 4, 10_000.0)
    rotated = rotary.apply_rotary_emb(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]), rope)
    assert rotated[0].tolist() == [1, 0, 0, 0]
    # at position 1 the first pair turns by 1, the second by 10000^(-1/2) = 0.01
    assert rotated[1].tolist() == pytest.approx([math.cos(1), math.cos(0.01), math.sin(1), math.sin(0.01)])


def test_scores_depend_only_on_the_distance_of_two_positions() -> None:
    rope = rotary.rope_cos_sin(torch.arange(9), 8, 10_000.0)
    query, key = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1))
    rotated_query, rotated_key = (rotary.apply_rotary_emb(x.expand(9, 8), rope) for x in (query, key))
    assert (rotated_query[3] @ rotated_key[1]).item() == pytest.approx((rotated_query[8] @ rotated_key[6]).item(), rel=1e-5)


def test_the_norm_divides_by_the_root_mean_square() -> None:
    # mean square of (3, 4) is 12.5
    assert RMSNorm(2, 1e-12)(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5])
