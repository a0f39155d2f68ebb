"""Build decoder-only transformers from blocks.

Module and parameter names are those of Hugging Face's Llama and Mixtral below their `model.`, so that export only renames.

Shapes: B batch, T positions, D hidden size, V vocabulary, S attended positions.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.block_stack import BlockStack
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.common.layers.rotary import RopeCache

NormLayer = RMSNorm | nn.LayerNorm


class TransformerBlock(nn.Module):
    """Add the outputs of attention and feed-forward layer to the residual stream.

    `mlp(hidden_BTD)` returns its output and its routing, which is None for a dense layer.
    """

    def __init__(
        self, input_layernorm: NormLayer, self_attn: Attention, post_attention_layernorm: NormLayer, mlp: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.input_layernorm = input_layernorm
        self.self_attn = self_attn
        self.post_attention_layernorm = post_attention_layernorm
        self.mlp = mlp
        self.dropout = dropout

    def forward(
        self, hidden_BTD: Tensor, rope: RopeCache | None, attn_mask_B1TS: Tensor | None, cache_and_layer: tuple[KVCache, int] | None
    ) -> tuple[Tensor, Routing | None]:
        hidden_BTD = hidden_BTD + self._apply_dropout(
            self.self_attn(self.input_layernorm(hidden_BTD), rope, attn_mask_B1TS, cache_and_layer)
        )
        mlp_out_BTD, routing = self.mlp(self.post_attention_layernorm(hidden_BTD))
        return hidden_BTD + self._apply_dropout(mlp_out_BTD), routing

    def _apply_dropout(self, out_BTD: Tensor) -> Tensor:
        return F.dropout(out_BTD, self.dropout, self.training) if self.dropout else out_BTD


class Decoder(nn.Module):
    """Compute next-token logits.

    `rope_theta` None: learned positions are added to the token embeddings.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        max_position_embeddings: int,
        blocks: Iterable[nn.Module],
        norm: NormLayer,
        tie_word_embeddings: bool,
        rope_theta: float | None,
    ) -> None:
        super().__init__()
        self.max_position_embeddings, self.rope_theta = max_position_embeddings, rope_theta
        self.embed_tokens = nn.Embedding(vocab_size, hidden_size)
        self.embed_positions = nn.Embedding(max_position_embeddings, hidden_size) if rope_theta is None else None
        self.layers = BlockStack(blocks)
        self.norm = norm
        self.lm_head = None if tie_word_embeddings else nn.Linear(hidden_size, vocab_size, bias=False)

    @property
    def lm_head_weight(self) -> Tensor:
        """Return the output matrix (V, D): the embedding matrix where the two are tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden_states(
        self, tokens_BT: Tensor, cache: KVCache | None = None, documents_BT: Tensor | None = None
    ) -> tuple[Tensor, list[Routing]]:
        """Compute the normalized states before the output matrix.

        Also returns the routing of each layer with experts. With `cache` the tokens are at the cache's positions and attend to what
        it holds. With `documents_BT` (document numbers) a token attends to its own document only. Raises ValueError beyond
        `max_position_embeddings`.
        """
        self.check_length(tokens_BT, cache)
        positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) if cache is None else cache.positions_BT
        hidden_BTD, rope = self._add_positions(self.embed_tokens(tokens_BT), positions)
        attn_mask_B1TS = None if documents_BT is None else _document_mask(documents_BT)

        def run_block(layer: int, block: nn.Module, hidden_BTD: Tensor) -> tuple[Tensor, Routing | None]:
            """Run one block with the positions, mask and cache of this pass."""
            output: tuple[Tensor, Routing | None] = block(
                hidden_BTD, rope, attn_mask_B1TS, None if cache is None else (cache, layer)
            )
            return output

        hidden_BTD, routings = self.layers.run(hidden_BTD, run_block)
        return self.norm(hidden_BTD), [routing for routing in routings if routing is not None]

    def check_length(self, tokens_BT: Tensor, cache: KVCache | None) -> None:
        """Raise ValueError for positions beyond `max_position_embeddings`."""
        num_positions = tokens_BT.shape[1] if cache is None else cache.attn_mask_B1TS.shape[-1]
        if num_positions > self.max_position_embeddings:
            raise ValueError(
                f"sequence length must be <= max_position_embeddings = {self.max_position_embeddings}, got {num_positions}"
            )

    def _add_positions(self, hidden_BTD: Tensor, positions: Tensor) -> tuple[Tensor, RopeCache | None]:
        """Add learned positions, or return rotations.

        `positions` are T, or B × T: then the rotations get an axis for heads.
        """
        if self.rope_theta is None:
            assert self.embed_positions is not None
            return hidden_BTD + self.embed_positions(positions), None
        head_dim: int = self.layers[0].self_attn.head_dim  # type: ignore[union-attr,assignment]
        return hidden_BTD, rotary.rope_cos_sin(positions if positions.ndim == 1 else positions[:, None], head_dim, self.rope_theta)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.linear(self.hidden_states(tokens_BT)[0], self.lm_head_weight)


def _document_mask(documents_BT: Tensor) -> Tensor:
    """Return attn_mask_B1TT: earlier positions of the same document."""
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return same_BTT.tril()[:, None]


def init_weights(model: Decoder) -> None:
    """Initialize all parameters from torch's global generator.

    Normal with standard deviation 0.02 for embeddings and 1/√(fan-in) for matrices. Matrices that write into the residual stream are
    zero (as in nanochat), so that every block is the identity at the first step.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight", "bias")):
            nn.init.zeros_(parameter)
        elif param_group_of(name) == "embedding":
            nn.init.normal_(parameter, 0.0, 0.02)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)


def param_group_of(name: str) -> Literal["embedding", "matrix", "default"]:
    """Return the optimizer group of a parameter.

    embedding: embeddings and output matrix; matrix: attention, feed-forward and experts; default: routers, norms and biases.
    """
    if name in ("embed_tokens.weight", "embed_positions.weight", "lm_head.weight"):
        return "embedding"
    return "matrix" if name.endswith(("_proj.weight", "_proj")) else "default"


def next_token_logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Return logits_BTV of the token after each position."""
    logits_BTV: Tensor = model(tokens_BT)
    return logits_BTV


def logits_with_cache(model: nn.Module, tokens_BT: Tensor, cache: KVCache) -> Tensor:
    """Return logits_BTV for tokens at the positions of `cache`."""
    assert isinstance(model, Decoder)
    return F.linear(model.hidden_states(tokens_BT, cache)[0], model.lm_head_weight)


def decoder_blocks(model: nn.Module) -> BlockStack:
    """Return the blocks of a decoder."""
    assert isinstance(model, Decoder)
    return model.layers
