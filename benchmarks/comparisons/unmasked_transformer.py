"""Build the music transformer of the first seed report.

It is written after the report and its sources. Attention is two-branch and not causal: softmax attention within blocks of the sequence, and attention to the keys and values of every
`stride`-th token. Each layer adds its residual twice and normalizes after it. The sizes are those that the report states.

Shapes: B batch, T positions, D hidden size, N heads, H head size, W window.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB_SIZE, HIDDEN, HEADS, LAYERS, FFN, WINDOW, STRIDE, DROPOUT = 774, 512, 8, 4, 2048, 256, 64, 0.1
NUM_PARAMS = 17_608_454


class TwoBranchAttention(nn.Module):
    """Join attention within blocks and to strided positions, then add and normalize."""

    def __init__(self) -> None:
        super().__init__()
        self.local = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.strided = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.output = nn.Linear(2 * HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        batch, seq_len, _ = hidden_BTD.shape
        blocks = F.pad(hidden_BTD, (0, 0, 0, -seq_len % WINDOW)).reshape(-1, WINDOW, HIDDEN)
        local_BTD = self._attend(self.local, blocks, blocks).reshape(batch, -1, HIDDEN)[:, :seq_len]
        strided_BTD = self._attend(self.strided, hidden_BTD, hidden_BTD[:, ::STRIDE])
        joined_BTD: Tensor = self.output(torch.cat((local_BTD, strided_BTD), -1))
        output_BTD: Tensor = self.norm(hidden_BTD + self.dropout(joined_BTD))
        return output_BTD

    def _attend(self, projections: nn.ModuleList, states_BTD: Tensor, attended_BSD: Tensor) -> Tensor:
        inputs = (states_BTD, attended_BSD, attended_BSD)
        query, key, value = (
            projection(states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for projection, states in zip(projections, inputs, strict=True)
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        attended: Tensor = self.dropout(weights) @ value
        return attended.transpose(1, 2).flatten(2)


class UnmaskedBlock(nn.Module):
    """Apply attention and feed-forward layer, each with a norm after its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = TwoBranchAttention()
        self.mlp = nn.Sequential(nn.Linear(HIDDEN, FFN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(FFN, HIDDEN))
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        hidden_BTD = self.norms[0](hidden_BTD + self.dropout(self.attention(hidden_BTD)))
        output_BTD: Tensor = self.norms[1](hidden_BTD + self.dropout(self.mlp(hidden_BTD)))
        return output_BTD


class UnmaskedTransformer(nn.Module):
    """Compute logits of every position from all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, HIDDEN)
        self.blocks = nn.ModuleList(UnmaskedBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB_SIZE)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        positions_T1 = torch.arange(tokens_BT.shape[1])[:, None]
        angles_TD = positions_T1 / 10_000 ** (torch.arange(0, HIDDEN, 2) / HIDDEN)
        hidden_BTD = self.embedding(tokens_BT) + torch.cat((angles_TD.sin(), angles_TD.cos()), -1)
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        logits_BTV: Tensor = self.head(self.norm(hidden_BTD))
        return logits_BTV
