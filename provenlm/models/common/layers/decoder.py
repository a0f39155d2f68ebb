"""The frame of every decoder: token ids in, logits of the next token at every position out.

Module and parameter names are those of Hugging Face's Llama and Mixtral below their `model.`, so that an export renames.

Shapes: B batch, T positions, D hidden, V vocabulary.
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.kv_cache import Cache
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.common.layers.rotary import Angles

Norm = RMSNorm | nn.LayerNorm


class Block(nn.Module):
    """One layer: what attention says is added to the state, then what the feed-forward half `mlp` says.

    `mlp(hidden_BTD)` gives what it says and, where it is a mixture of experts, its dispatch (else None).
    """

    def __init__(self, before: Norm, attention: Attention, between: Norm, mlp: nn.Module, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = before
        self.self_attn = attention
        self.post_attention_layernorm = between
        self.mlp = mlp
        self.dropout = dropout

    def forward(
        self, hidden_BTD: Tensor, angles: Angles | None, seen_B1TS: Tensor | None, past: tuple[Cache, int] | None
    ) -> tuple[Tensor, Routing | None]:
        hidden_BTD = hidden_BTD + self._dropped(self.self_attn(self.input_layernorm(hidden_BTD), angles, seen_B1TS, past))
        said_BTD, routing = self.mlp(self.post_attention_layernorm(hidden_BTD))
        return hidden_BTD + self._dropped(said_BTD), routing

    def _dropped(self, said_BTD: Tensor) -> Tensor:
        return F.dropout(said_BTD, self.dropout, self.training) if self.dropout else said_BTD


class Decoder(nn.Module):
    """Embedding, blocks, norm and head. `rope_theta` None: positions are learned and added to the embedding of the tokens."""

    def __init__(
        self, vocabulary: int, hidden: int, context: int, blocks: Iterable[Block], norm: Norm, tied: bool, rope_theta: float | None
    ) -> None:
        super().__init__()
        self.context, self.rope_theta = context, rope_theta
        self.embed_tokens = nn.Embedding(vocabulary, hidden)
        self.embed_positions = nn.Embedding(context, hidden) if rope_theta is None else None
        self.layers = nn.ModuleList(blocks)
        self.norm = norm
        self.lm_head = None if tied else nn.Linear(hidden, vocabulary, bias=False)
        self.recompute: int | None = None  # so many blocks keep only their input, and are computed again in the backward pass

    @property
    def head(self) -> Tensor:
        """The matrix (V, D) that turns states into logits: the embedding itself where the two are tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def states(
        self, tokens_BT: Tensor, cache: Cache | None = None, documents_BT: Tensor | None = None
    ) -> tuple[Tensor, list[Routing]]:
        """The normed states before the head, and the dispatch of each layer that has experts.

        With `cache` the tokens stand at the positions that it was told of, and look at what it holds. With `documents_BT` (their
        numbers) a token looks at those of its document alone. ValueError beyond `context`.
        """
        places = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) if cache is None else cache.places_BT
        length = tokens_BT.shape[1] if cache is None else cache.seen_B1TS.shape[-1]
        if length > self.context:
            raise ValueError(f"{length} positions asked of a net with a context of {self.context}")
        hidden_BTD, angles = self._placed(self.embed_tokens(tokens_BT), places)
        seen_B1TS = None if documents_BT is None else _within(documents_BT)
        routings: list[Routing] = []
        again = self.recompute if torch.is_grad_enabled() else None
        size = again or len(self.layers)
        for first in range(0, len(self.layers), size):
            segment = partial(self._through, range(first, min(first + size, len(self.layers))), angles, seen_B1TS, cache)
            found = checkpoint(segment, hidden_BTD, use_reentrant=False) if again else segment(hidden_BTD)
            hidden_BTD, routings = found[0], routings + found[1]
        return self.norm(hidden_BTD), routings

    def _through(
        self, layers: range, angles: Angles | None, seen_B1TS: Tensor | None, cache: Cache | None, hidden_BTD: Tensor
    ) -> tuple[Tensor, list[Routing]]:
        routings = []
        for layer in layers:
            past = None if cache is None else (cache, layer)
            hidden_BTD, routing = self.layers[layer](hidden_BTD, angles, seen_B1TS, past)
            if routing is not None:
                routings.append(routing)
        return hidden_BTD, routings

    def _placed(self, hidden_BTD: Tensor, places: Tensor) -> tuple[Tensor, Angles | None]:
        """`places` are T positions of every row, or B × T: angles then have an axis for the heads."""
        if self.rope_theta is None:
            assert self.embed_positions is not None
            return hidden_BTD + self.embed_positions(places), None
        head: int = self.layers[0].self_attn.head  # type: ignore[union-attr,assignment]
        return hidden_BTD, rotary.angles(places if places.ndim == 1 else places[:, None], head, self.rope_theta)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.linear(self.states(tokens_BT)[0], self.head)


def _within(documents_BT: Tensor) -> Tensor:
    """seen_B1TT: what came before in the same document."""
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return same_BTT.tril()[:, None]


def initialise(model: Decoder) -> None:
    """Draw every parameter anew: embeddings with deviation 0.02, matrices with 1/√(fan-in), from torch's current generator.

    What writes into the residual stream begins at zero (as in nanochat): every block is the identity at the first step.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight", "bias")):
            nn.init.zeros_(parameter)
        elif role_of(name) == "embedding":
            nn.init.normal_(parameter, 0.0, 0.02)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)


def role_of(name: str) -> Literal["embedding", "matrix", "rest"]:
    """Embeddings and head; the matrices of attention, feed-forward and experts; the rest, which is routers, norms and biases."""
    if name in ("embed_tokens.weight", "embed_positions.weight", "lm_head.weight"):
        return "embedding"
    return "matrix" if name.endswith(("_proj.weight", "_proj")) else "rest"


def logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """logits_BTV of the token after each position."""
    logits_BTV: Tensor = model(tokens_BT)
    return logits_BTV


def continued(model: nn.Module, tokens_BT: Tensor, cache: Cache) -> Tensor:
    """logits_BTV after tokens that stand where `cache` was told, behind all that it has been shown before."""
    assert isinstance(model, Decoder)
    return F.linear(model.states(tokens_BT, cache)[0], model.head)
