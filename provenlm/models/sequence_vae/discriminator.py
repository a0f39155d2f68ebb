"""Discriminate real from generated sequences of tokens, bar by bar.

Every linear layer has spectral norm 1 (Miyato et al. 2018, arXiv 1802.05957). Tokens come as distributions over the vocabulary, so that
gradients pass through them to the decoder that sampled them.

Shapes: B sequences, T positions, N bars, D hidden size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from provenlm.models.sequence_vae.blocks import SequenceStack, num_block_params
from provenlm.models.sequence_vae.config import SequenceVAEConfig


class Judgement(NamedTuple):
    """Hold the score of each bar and the mean state after each block.

    Scores are high for real bars; mean states are (D,) each.
    """

    scores_BN: Tensor
    features: list[Tensor]


class Discriminator(nn.Module):
    """Score bars in their context with bidirectional attention."""

    def __init__(self, config: SequenceVAEConfig, num_layers: int) -> None:
        super().__init__()
        c = config
        self.stack = SequenceStack(
            num_layers, c.hidden_size, c.num_attention_heads, c.intermediate_size, 0.0, c.norm_eps, c.rope_theta
        )
        self.score_hidden = nn.Linear(c.hidden_size, c.hidden_size // 2)
        self.score = nn.Linear(c.hidden_size // 2, 1)

    def normalize_spectrum(self) -> None:
        """Parametrize every linear layer; called once, after the weights are initialized."""
        for module in list(self.modules()):
            if isinstance(module, nn.Linear):
                spectral_norm(module)

    def forward(self, embedded_BTD: Tensor, is_token_BT: Tensor, mean_BNT: Tensor) -> Judgement:
        """Judge embedded tokens; `mean_BNT` averages the positions of each bar, of those with a token."""
        mask_BTT = is_token_BT[:, None, :] | torch.eye(is_token_BT.shape[1], dtype=torch.bool, device=is_token_BT.device)
        states_BTD, layer_states = self.stack(embedded_BTD, mask_BTT)
        bars_BND = mean_BNT @ states_BTD
        scores_BN = self.score(F.gelu(self.score_hidden(bars_BND)))[..., 0]
        return Judgement(scores_BN, [state_BTD[is_token_BT].mean(0) for state_BTD in layer_states])


def num_discriminator_params(config: SequenceVAEConfig, num_layers: int) -> int:
    """Count the parameters of `Discriminator`."""
    d = config.hidden_size
    head = (d + 1) * (d // 2) + d // 2 + 1
    return num_layers * num_block_params(d, config.intermediate_size) + 2 * d + head
