"""The `net` section of a recipe whose kind is gpt, typed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """The shape of the net. `style` llama: rotary positions, RMSNorm, SwiGLU, no biases. gpt2: learned positions, LayerNorm, GELU, biases."""

    style: Literal["llama", "gpt2"]
    hidden: int
    layers: int
    heads: int
    kv_heads: int  # of gpt2 as many as heads
    inner: int  # width of the feed-forward half; GPT-2 has 4 · hidden
    context: int  # the most positions it will be asked for
    tied: bool  # whether the head is the embedding
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
        self._check_llama() if self.style == "llama" else self._check_gpt2()

    def _check_llama(self) -> None:
        if self.rope_theta is None or self.rope_theta <= 0:
            raise ValueError(f"rope_theta is {self.rope_theta}; style llama takes a number above 0")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden is {self.hidden}; it must be an even number for each of the {self.heads} heads")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads is {self.kv_heads}; it must divide heads, {self.heads}")

    def _check_gpt2(self) -> None:
        if self.rope_theta is not None:
            raise ValueError(f"rope_theta is {self.rope_theta}; style gpt2 learns its positions: null would be right")
        if self.hidden % self.heads:
            raise ValueError(f"hidden is {self.hidden}; it must be a multiple of heads, {self.heads}")
        if self.kv_heads != self.heads:
            raise ValueError(f"kv_heads is {self.kv_heads}; style gpt2 has one for each of the {self.heads} heads")
