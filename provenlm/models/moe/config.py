"""The `net` section of a recipe whose kind is moe, typed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MoEConfig:
    """The shape of the net and the weights of its router's losses."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    num_experts: int
    num_experts_per_tok: int
    intermediate_size: int  # inner width of one expert
    max_position_embeddings: int  # the most positions it will be asked for
    tie_word_embeddings: bool  # whether the head is the embedding
    rope_theta: float
    norm_eps: float
    dropout: float  # of attention weights and of what each half of a block adds
    # layerwise: Switch's loss of each layer, averaged; joint: Mixtral's, of loads averaged over layers; bias: no loss, a bias that moves
    load_balancing: Literal["layerwise", "joint", "bias"]
    load_balancing_weight: float  # of the loss in what is minimised; of a bias: how far it moves a step
    z_loss_weight: float

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "kv_heads", "experts", "experts_per_token", "expert_hidden", "context"):
            _check_min(getattr(self, name), 1, name)
        for name in ("rope_theta", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden is {self.hidden_size}; it must be an even number for each of the {self.num_attention_heads} heads"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"kv_heads is {self.num_key_value_heads}; it must divide heads, {self.num_attention_heads}")
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(f"experts_per_token is {self.num_experts_per_tok}; there are {self.num_experts} experts")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be from 0 to below 1")
        for name in ("balance_weight", "z_weight"):
            _check_min(getattr(self, name), 0, name)


def _check_min(value: float, min_value: int, name: str) -> None:
    if value < min_value:
        raise ValueError(f"{name} is {value}; it must be at least {min_value}")
