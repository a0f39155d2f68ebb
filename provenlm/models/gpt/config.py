"""Define the config of the dense decoder.

It is a recipe's `model` section with `arch: gpt`.
"""

from dataclasses import dataclass
from typing import Literal

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
)
DEFAULT_ROPE_THETA = 10_000.0  # of llama


@dataclass(frozen=True)
class GPTConfig:
    """Configure a dense decoder; the fields have the names of Hugging Face's Llama.

    `variant` llama: rotary positions, RMSNorm, SwiGLU, no biases. gpt2: learned positions, LayerNorm, GELU, biases; it has
    as many key/value heads as heads. The defaults build a model for two CPU cores.
    """

    variant: Literal["llama", "gpt2"] = "llama"
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2  # llama: a divisor of num_attention_heads; gpt2: equal to it
    intermediate_size: int = 512  # width of the feed-forward layer: 8/3 · hidden_size for llama, 4 · hidden_size for gpt2 is usual
    max_position_embeddings: int = 1024  # longest sequence
    tie_word_embeddings: bool = True  # whether the output matrix is the embedding matrix
    rope_theta: float | None = None  # base of the rotary frequencies; null: 10,000 for llama; gpt2 has none
    norm_eps: float = 1e-5
    dropout: float = 0.0  # of attention weights and of the output of attention and feed-forward

    def __post_init__(self) -> None:
        if self.variant == "llama" and self.rope_theta is None:
            object.__setattr__(self, "rope_theta", DEFAULT_ROPE_THETA)
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps: must be > 0, got {self.norm_eps}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be >= 0 and < 1, got {self.dropout}")
        self._check_llama() if self.variant == "llama" else self._check_gpt2()

    def _check_llama(self) -> None:
        if self.rope_theta is None or self.rope_theta <= 0:
            raise ValueError(f"rope_theta: must be > 0 for variant llama, got {self.rope_theta}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size: must be a multiple of 2 * num_attention_heads = {2 * self.num_attention_heads}, got {self.hidden_size}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: must divide num_attention_heads = {self.num_attention_heads}, got {self.num_key_value_heads}"
            )

    def _check_gpt2(self) -> None:
        if self.rope_theta is not None:
            raise ValueError(f"rope_theta: must be null for variant gpt2, which learns its positions, got {self.rope_theta}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size: must be a multiple of num_attention_heads = {self.num_attention_heads}, got {self.hidden_size}"
            )
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"num_key_value_heads: must equal num_attention_heads = {self.num_attention_heads} for variant gpt2, got {self.num_key_value_heads}"
            )
