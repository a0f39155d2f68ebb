"""The `net` section of a recipe whose kind is gpt, typed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GPTConfig:
    """The shape of the net. `style` llama: rotary positions, RMSNorm, SwiGLU, no biases. gpt2: learned positions, LayerNorm, GELU, biases."""

    variant: Literal["llama", "gpt2"]
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int  # of gpt2 as many as heads
    intermediate_size: int  # width of the feed-forward half; GPT-2 has 4 · hidden
    max_position_embeddings: int  # the most positions it will be asked for
    tie_word_embeddings: bool  # whether the head is the embedding
    rope_theta: float | None  # null for gpt2, whose positions are learned
    norm_eps: float
    dropout: float  # of attention weights and of what each half of a block adds

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "kv_heads", "inner", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps is {self.norm_eps}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be from 0 to below 1")
        self._check_llama() if self.variant == "llama" else self._check_gpt2()

    def _check_llama(self) -> None:
        if self.rope_theta is None or self.rope_theta <= 0:
            raise ValueError(f"rope_theta is {self.rope_theta}; style llama takes a number above 0")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden is {self.hidden_size}; it must be an even number for each of the {self.num_attention_heads} heads"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"kv_heads is {self.num_key_value_heads}; it must divide heads, {self.num_attention_heads}")

    def _check_gpt2(self) -> None:
        if self.rope_theta is not None:
            raise ValueError(f"rope_theta is {self.rope_theta}; style gpt2 learns its positions: null would be right")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden is {self.hidden_size}; it must be a multiple of heads, {self.num_attention_heads}")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"kv_heads is {self.num_key_value_heads}; style gpt2 has one for each of the {self.num_attention_heads} heads"
            )
