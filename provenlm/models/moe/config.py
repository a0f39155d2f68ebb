"""Define the config of the mixture-of-experts decoder.

It is a recipe's `model` section with `arch: moe`.
"""

from dataclasses import dataclass
from typing import Literal

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
    "num_experts_per_tok",
    "intermediate_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class MoEConfig:
    """Configure a mixture-of-experts decoder.

    The fields have the names of Hugging Face's Mixtral. The defaults build the model of the default recipe: 8.3 million parameters
    with a vocabulary of 8,192, for two CPU cores.

    `load_balancing` aux_loss: the auxiliary loss of the Switch Transformer in each layer, averaged over layers. global_aux_loss:
    Mixtral's, with the load averaged over layers first. bias: no auxiliary loss, but an expert bias that follows the load.
    """

    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2  # a divisor of num_attention_heads
    num_experts: int = 8
    num_experts_per_tok: int = 2
    intermediate_size: int = 384  # width of one expert
    max_position_embeddings: int = 1024  # longest sequence
    tie_word_embeddings: bool = True  # whether the output matrix is the embedding matrix
    rope_theta: float = 10_000.0  # base of the rotary frequencies
    norm_eps: float = 1e-5
    dropout: float = 0.0  # of attention weights and of the output of attention and experts
    load_balancing: Literal["aux_loss", "global_aux_loss", "bias"] = "aux_loss"
    load_balancing_weight: float = 0.01  # of the auxiliary loss; with bias: the step of the expert bias
    z_loss_weight: float = 0.001  # of the router z-loss

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        for name in ("rope_theta", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be > 0, got {getattr(self, name)}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size: must be a multiple of 2 * num_attention_heads = {2 * self.num_attention_heads}, got {self.hidden_size}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: must divide num_attention_heads = {self.num_attention_heads}, got {self.num_key_value_heads}"
            )
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(f"num_experts_per_tok: must be <= num_experts = {self.num_experts}, got {self.num_experts_per_tok}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be >= 0 and < 1, got {self.dropout}")
        for name in ("load_balancing_weight", "z_loss_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be >= 0, got {getattr(self, name)}")
