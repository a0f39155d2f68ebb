"""The `net` section of a recipe whose kind is moe, typed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """The shape of the net and the weights of its router's losses."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    experts: int
    experts_per_token: int
    expert_hidden: int  # inner width of one expert
    context: int  # the most positions it will be asked for
    tied: bool  # whether the head is the embedding
    rope_theta: float
    norm_eps: float
    dropout: float  # of attention weights and of what each half of a block adds
    # layerwise: Switch's loss of each layer, averaged; joint: Mixtral's, of loads averaged over layers; bias: no loss, a bias that moves
    balance: Literal["layerwise", "joint", "bias"]
    balance_weight: float  # of the loss in what is minimised; of a bias: how far it moves a step
    z_weight: float

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "kv_heads", "experts", "experts_per_token", "expert_hidden", "context"):
            _at_least(getattr(self, name), 1, name)
        for name in ("rope_theta", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden is {self.hidden}; it must be an even number for each of the {self.heads} heads")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads is {self.kv_heads}; it must divide heads, {self.heads}")
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token is {self.experts_per_token}; there are {self.experts} experts")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be from 0 to below 1")
        for name in ("balance_weight", "z_weight"):
            _at_least(getattr(self, name), 0, name)


def _at_least(value: float, least: int, name: str) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
