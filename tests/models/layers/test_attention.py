"""Compare attention with its definition written out."""

import pytest
import torch

from provenlm.models.common.layers import attention, rotary
from provenlm.models.common.layers.attention import Attention


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (4, 1)])
def test_grouped_query_attention_equals_its_definition(num_heads: int, num_kv_heads: int) -> None:
    torch.manual_seed(0)
    layer, hidden = Attention(16, num_heads, num_kv_heads, 0.0, bias=False), torch.randn(1, 5, 16)
    rope = rotary.rope_cos_sin(torch.arange(5), 16 // num_heads, 10_000.0)
    query = rotary.apply_rotary_emb(layer.q_proj(hidden)[0].view(5, num_heads, -1).transpose(0, 1), rope)
    key = rotary.apply_rotary_emb(layer.k_proj(hidden)[0].view(5, num_kv_heads, -1).transpose(0, 1), rope)
    value = layer.v_proj(hidden)[0].view(5, num_kv_heads, -1).transpose(0, 1)
    expected = []
    for head in range(num_heads):
        group = head // (num_heads // num_kv_heads)
        scores = query[head] @ key[group].T / (16 // num_heads) ** 0.5
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
        expected.append(scores.softmax(-1) @ value[group])
    assert torch.allclose(layer(hidden, rope, None, None)[0], layer.o_proj(torch.cat(expected, -1)), atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_the_closed_form_counts_the_built_parameters(num_kv_heads: int, bias: bool) -> None:
    layer = Attention(16, 4, num_kv_heads, 0.0, bias)
    assert sum(p.numel() for p in layer.parameters()) == attention.num_attention_params(16, 4, num_kv_heads, bias)
