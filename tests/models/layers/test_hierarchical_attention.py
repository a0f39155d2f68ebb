"""Compare hierarchical attention with its definition written out, and plant the leaks that its masks exist for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from provenlm.models.common.layers import hierarchical_attention, rotary
from provenlm.models.common.layers.feed_forward import MLP
from provenlm.models.common.layers.hierarchical_attention import (
    HierarchicalAttention,
    HierarchicalBlock,
    HierarchicalScope,
    causal_scope,
    own_segment_scope,
)

THETA, HEADS, HEAD_DIM, WINDOW = 10_000.0, 2, 8, 4
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]])


@pytest.fixture(scope="module")
def layer() -> HierarchicalAttention:
    torch.manual_seed(0)
    return HierarchicalAttention(HEADS * HEAD_DIM, HEADS, nn.LayerNorm(HEADS * HEAD_DIM), 0.0, bias=True)


@pytest.fixture(scope="module")
def hidden() -> Tensor:
    return torch.randn(2, 13, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(1))


def heads(projected_TD: Tensor) -> Tensor:
    return projected_TD.view(len(projected_TD), HEADS, HEAD_DIM).transpose(0, 1)


def rotated(projected_TD: Tensor, positions_T: Tensor) -> Tensor:
    return rotary.apply_rotary_emb(heads(projected_TD), rotary.rope_cos_sin(positions_T, HEAD_DIM, THETA))


def attend_by_definition(layer: HierarchicalAttention, hidden_TD: Tensor, segments_T: Tensor) -> Tensor:
    """Attend position by position: the last four positions, and an empty slot with each finished segment."""
    positions_T, rows = torch.arange(len(hidden_TD)), []
    query, key = rotated(layer.local_q_proj(hidden_TD), positions_T), rotated(layer.local_k_proj(hidden_TD), positions_T)
    value = heads(layer.local_v_proj(hidden_TD))
    far_query = rotated(layer.global_q_proj(hidden_TD), segments_T)
    means_SD = torch.stack([hidden_TD[segments_T == segment].mean(0) for segment in range(int(segments_T.max()) + 1)])
    summary_SD = layer.summary_norm(means_SD)
    far_key, far_value = (
        rotated(layer.global_k_proj(summary_SD), torch.arange(len(summary_SD))),
        heads(layer.global_v_proj(summary_SD)),
    )
    for position in range(len(hidden_TD)):
        near = slice(max(0, position - WINDOW + 1), position + 1)
        scores = (query[:, position, None] * key[:, near]).sum(-1) / HEAD_DIM**0.5
        local = (scores.softmax(-1)[..., None] * value[:, near]).sum(1)
        finished = slice(0, int(segments_T[position]))
        far_scores = (far_query[:, position, None] * far_key[:, finished]).sum(-1) / HEAD_DIM**0.5
        weights = torch.cat((torch.zeros(HEADS, 1), far_scores), -1).softmax(-1)[:, 1:]
        far = (weights[..., None] * far_value[:, finished]).sum(1)
        rows.append(layer.o_proj(torch.cat((local.flatten(), far.flatten()))))
    return torch.stack(rows)


@pytest.mark.parametrize("length", [3, 4, 12, 13])
def test_hierarchical_attention_equals_its_definition(layer: HierarchicalAttention, hidden: Tensor, length: int) -> None:
    scope = causal_scope(SEGMENTS[:, :length], WINDOW, HEAD_DIM, THETA)
    actual = layer(hidden[:, :length], scope, None)
    expected = [attend_by_definition(layer, hidden[i, :length], SEGMENTS[i, :length]) for i in range(2)]
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-5, rtol=1e-5)


def change_by_position(layer: HierarchicalAttention, hidden: Tensor, scope: HierarchicalScope, start: int) -> Tensor:
    """Return the change of the output at each position if the states from `start` on are others."""
    other = hidden.clone()
    other[:, start:] += 1.0 + torch.arange(HEADS * HEAD_DIM)
    return (layer(other, scope, None) - layer(hidden, scope, None)).abs().amax(-1)


@pytest.mark.parametrize("start", range(1, 13))
def test_no_position_sees_a_later_one(layer: HierarchicalAttention, hidden: Tensor, start: int) -> None:
    change = change_by_position(layer, hidden, causal_scope(SEGMENTS, WINDOW, HEAD_DIM, THETA), start)
    assert change[:, :start].max() == 0 and change[:, start:].min() > 1e-3


def test_a_position_beyond_the_window_is_seen_through_its_summary_only(layer: HierarchicalAttention, hidden: Tensor) -> None:
    """Sequence 1 has one long segment: what is 4 or more positions back is lost until the segment ends at position 11."""
    scope, other = causal_scope(SEGMENTS, WINDOW, HEAD_DIM, THETA), hidden.clone()
    other[:, 0] += torch.arange(HEADS * HEAD_DIM)
    change = (layer(other, scope, None) - layer(hidden, scope, None)).abs().amax(-1)
    assert change[1, :4].min() > 1e-4 and change[1, 4:11].max() == 0 and change[1, 11:].min() > 1e-4
    assert change[0].min() > 1e-5


def test_a_visible_summary_of_an_unfinished_segment_is_found(layer: HierarchicalAttention, hidden: Tensor) -> None:
    """Plant the leak: a segment is seen by its own positions, as if its end were known."""
    scope = causal_scope(SEGMENTS, WINDOW, HEAD_DIM, THETA)
    leak = replace(scope, summary_mask_B1TA=torch.cat((scope.summary_mask_B1TA[..., :1], scope.summary_mask_B1TA[..., :-1]), -1))
    assert change_by_position(layer, hidden, leak, 5)[0, :5].max() > 1e-3


@pytest.mark.parametrize("window", [WINDOW, 32])
def test_documents_are_kept_apart(layer: HierarchicalAttention, hidden: Tensor, window: int) -> None:
    """Both in the local window and in the summaries; a document gets what it gets alone."""
    documents = torch.tensor([[7] * 7 + [8] * 6] * 2)
    scope = causal_scope(SEGMENTS[:1].expand(2, -1), window, HEAD_DIM, THETA, documents)
    alone = causal_scope(SEGMENTS[:1, 7:].expand(2, -1) - 2, window, HEAD_DIM, THETA)
    torch.testing.assert_close(layer(hidden, scope, None)[:, 7:], layer(hidden[:, 7:], alone, None), atol=1e-5, rtol=1e-5)


def test_an_encoder_of_segments_sees_its_own_segment_only(layer: HierarchicalAttention, hidden: Tensor) -> None:
    scope, other = own_segment_scope(SEGMENTS, HEAD_DIM, THETA), hidden.clone()
    other[0, 5] += torch.arange(HEADS * HEAD_DIM)
    change = (layer(other, scope, None) - layer(hidden, scope, None)).abs().amax(-1)[0]
    assert (change[3:7] > 1e-4).all() and change[:3].max() == 0 and change[7:].max() == 0


@pytest.mark.parametrize("bias", [True, False])
def test_a_block_has_the_parameters_of_its_closed_form(bias: bool) -> None:
    """With biases it is the block of the first seed report: 4,203,520 parameters."""
    with torch.device("meta"):
        attention = HierarchicalAttention(512, 8, nn.LayerNorm(512), 0.0, bias)
        block = HierarchicalBlock(nn.LayerNorm(512), attention, nn.LayerNorm(512), MLP(512, 2048), 0.0)
    num_attention = sum(p.numel() for p in attention.parameters())
    assert num_attention == hierarchical_attention.num_hierarchical_attention_params(512, bias, 1024)
    assert not bias or sum(p.numel() for p in block.parameters()) == 4_203_520
