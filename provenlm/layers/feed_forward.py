"""The dense feed-forward halves of a block: hidden states in, what to add to them out.

Shapes: B batch, T positions, D hidden, F inner width.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class SwiGLU(nn.Module):
    """down · (silu(gate · x) * (up · x)) (arXiv 2002.05202), in the names of Llama, without bias."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, None]:
        said_BTD: Tensor = self.down_proj(F.silu(self.gate_proj(hidden_BTD)) * self.up_proj(hidden_BTD))
        return said_BTD, None


class Perceptron(nn.Module):
    """down · gelu(up · x), both with bias, as GPT-2 has it: GELU by its tanh form (arXiv 1606.08415)."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden, inner)
        self.down_proj = nn.Linear(inner, hidden)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, None]:
        said_BTD: Tensor = self.down_proj(F.gelu(self.up_proj(hidden_BTD), approximate="tanh"))
        return said_BTD, None


def swiglu_parameters(hidden: int, inner: int) -> int:
    """How many parameters `SwiGLU` has."""
    return 3 * hidden * inner


def perceptron_parameters(hidden: int, inner: int) -> int:
    """How many parameters `Perceptron` has."""
    return 2 * hidden * inner + hidden + inner
