"""Define the config of the music transformer.

It is a recipe's `model` section with `arch: music_transformer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from provenlm.core.errors import ConfigError

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "local_window",
    "summary_stride",
)
BAR_CLASS = "Bar"  # class of the tokens that begin a bar, in the names of MidiTok


@dataclass(frozen=True)
class MusicTransformerConfig:
    """Configure a causal transformer with rotary positions.

    `variant` llama: RMSNorm, SwiGLU, no biases. gpt2: LayerNorm, GELU, biases.

    `attention` plain: each position attends to itself and all earlier ones. hierarchical: to the last `local_window` positions and to one
    summary of each finished segment. `summaries` bar: a segment begins with each token that begins a bar. stride: every `summary_stride`
    tokens.

    The defaults build a model for two CPU cores.
    """

    attention: Literal["plain", "hierarchical"] = "plain"
    summaries: Literal["bar", "stride"] = "bar"
    bar_token_ids: tuple[int, ...] | None = None  # tokens that begin a bar; null: those that the tokenizer of the corpus names so
    summary_stride: int = 64  # tokens of a segment; with bars, only the estimate of FLOPs uses it
    local_window: int = 128  # positions
    variant: Literal["llama", "gpt2"] = "llama"
    hidden_size: int = 128
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 352  # width of the feed-forward layer: 8/3 · hidden_size for llama, 4 · hidden_size for gpt2 is usual
    max_position_embeddings: int = 2048  # longest sequence
    tie_word_embeddings: bool = True  # whether the output matrix is the embedding matrix
    head_bias: bool = False  # whether the output layer has a bias, which is never tied
    rope_theta: float = 10_000.0  # base of the rotary frequencies
    norm_eps: float = 1e-5
    dropout: float = 0.0  # of attention weights and of the output of attention and feed-forward

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
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be >= 0 and < 1, got {self.dropout}")
        if self.bar_token_ids is not None and (not self.bar_token_ids or min(self.bar_token_ids) < 0):
            raise ValueError(f"bar_token_ids: must be at least one id >= 0, or null, got {list(self.bar_token_ids)}")

    @property
    def needs_bars(self) -> bool:
        """Return whether the model must know which tokens begin a bar."""
        return self.attention == "hierarchical" and self.summaries == "bar"


def with_token_classes(config: MusicTransformerConfig, token_classes: Mapping[str, Sequence[int]]) -> MusicTransformerConfig:
    """Return the config with the bar tokens of a corpus.

    They are set where the model needs them and the config names none. Raises ConfigError if the tokens have no bars, or
    number them: every note then has a bar token.
    """
    if not config.needs_bars or config.bar_token_ids is not None:
        return config
    if BAR_CLASS not in token_classes:
        known = ", ".join(sorted(token_classes)) or "none"
        raise ConfigError(
            f"summaries: must be stride for tokens without the class {BAR_CLASS}, got bar; classes of this corpus: {known}"
        )
    if len(token_classes[BAR_CLASS]) > 1:
        raise ConfigError(
            f"summaries: must be stride for tokens that number the bars, got bar; class {BAR_CLASS}: {len(token_classes[BAR_CLASS])} ids"
        )
    return replace(config, bar_token_ids=(int(token_classes[BAR_CLASS][0]),))
