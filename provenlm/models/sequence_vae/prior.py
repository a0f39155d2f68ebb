"""Predict the latents and attributes of a sequence one by one.

With this prior, samples have a plan from bar to bar.

For each latent, in turn, the attributes are drawn given all earlier latents, then the latent given its attributes; latents are normal
distributions with diagonal covariance.

Shapes: B sequences, N latents of a sequence, Z latent size, A attributes, D hidden size of the prior, C classes of an attribute.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.spec import LatentSample
from provenlm.models.sequence_vae.blocks import SequenceStack, num_block_params
from provenlm.models.sequence_vae.config import LatentPriorConfig

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -8.0, 4.0


class PriorNats(NamedTuple):
    """Hold the negative log-likelihood of each latent and of its attributes.

    Both are (B, N).
    """

    latent_BN: Tensor
    attribute_BN: Tensor


class LatentPrior(nn.Module):
    """Compute the joint density of attributes and latents, factor by factor.

    It is ∏ p(attributes of n | before n) · p(latent n | its attributes, before n).
    """

    def __init__(self, config: LatentPriorConfig, latent_size: int, num_classes: tuple[int, ...], rope_theta: float) -> None:
        super().__init__()
        c = config
        self.num_classes, self.latent_size = num_classes, latent_size
        self.start_D = nn.Parameter(torch.zeros(c.hidden_size))
        self.latent_input = nn.Linear(latent_size, c.hidden_size)
        self.attribute_inputs = nn.ModuleList(nn.Embedding(number, c.hidden_size) for number in num_classes)
        self.stack = SequenceStack(
            c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.intermediate_size, 0.0, 1e-5, rope_theta
        )
        self.attribute_heads = nn.ModuleList(nn.Linear(c.hidden_size, number) for number in num_classes)
        self.attribute_outputs = nn.ModuleList(nn.Embedding(number, c.hidden_size) for number in num_classes)
        self.latent_head = nn.Linear(c.hidden_size, 2 * latent_size)

    def states(self, latents_BNZ: Tensor, attributes_BNA: Tensor | None) -> Tensor:
        """Return states_BND, each of earlier latents and attributes only."""
        inputs_BND = self.latent_input(latents_BNZ)
        for index, embedding in enumerate(self.attribute_inputs):
            assert attributes_BNA is not None
            inputs_BND = inputs_BND + embedding(attributes_BNA[..., index])
        start_B1D = self.start_D.expand(len(latents_BNZ), 1, -1)
        states_BND: Tensor = self.stack(torch.cat([start_B1D, inputs_BND[:, :-1]], 1), None)[0]
        return states_BND

    def distribution(self, states_BND: Tensor, attributes_BNA: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (B, N, Z) of each latent, given its attributes."""
        for index, embedding in enumerate(self.attribute_outputs):
            assert attributes_BNA is not None
            states_BND = states_BND + embedding(attributes_BNA[..., index])
        mean_BNZ, log_variance_BNZ = self.latent_head(F.gelu(states_BND)).chunk(2, -1)
        return mean_BNZ, log_variance_BNZ.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def nats(self, latents_BNZ: Tensor, attributes_BNA: Tensor | None) -> PriorNats:
        """Return the negative log-likelihood of latents and attributes."""
        states_BND = self.states(latents_BNZ, attributes_BNA)
        attribute_BN = states_BND.new_zeros(states_BND.shape[:2])
        for index, head in enumerate(self.attribute_heads):
            assert attributes_BNA is not None
            logits_BNC = head(states_BND)
            attribute_BN = attribute_BN + F.cross_entropy(logits_BNC.transpose(1, 2), attributes_BNA[..., index], reduction="none")
        latent_BN = normal_nats(latents_BNZ, *self.distribution(states_BND, attributes_BNA))
        return PriorNats(latent_BN, attribute_BN)

    def resample(self, latents_BNZ: Tensor, attributes_BNA: Tensor | None, noise_BNZ: Tensor) -> Tensor:
        """Draw each latent anew, given the earlier ones as they are."""
        mean_BNZ, log_variance_BNZ = self.distribution(self.states(latents_BNZ, attributes_BNA), attributes_BNA)
        return mean_BNZ + noise_BNZ * (0.5 * log_variance_BNZ).exp()

    @torch.no_grad()
    def sample(self, num_sequences: int, num_latents: int, generator: Generator, attributes_BNA: Tensor | None) -> LatentSample:
        """Sample sequences of latents, and of attributes where `attributes_BNA` is None.

        `generator` is a CPU generator.
        """
        device = self.start_D.device
        latents_BNZ = torch.zeros(num_sequences, num_latents, self.latent_size, device=device)
        sampled_BNA = torch.zeros(num_sequences, num_latents, len(self.num_classes), dtype=torch.int64, device=device)
        if attributes_BNA is not None:
            sampled_BNA.copy_(attributes_BNA)
        for n in range(num_latents):
            states_BND = self.states(latents_BNZ[:, : n + 1], sampled_BNA[:, : n + 1])[:, n : n + 1]
            for index, head in enumerate(self.attribute_heads if attributes_BNA is None else ()):
                probabilities_BC = head(states_BND[:, 0]).softmax(-1).cpu()
                sampled_BNA[:, n, index] = torch.multinomial(probabilities_BC, 1, generator=generator)[:, 0].to(device)
            mean_B1Z, log_variance_B1Z = self.distribution(states_BND, sampled_BNA[:, n : n + 1])
            noise_BZ = torch.randn(num_sequences, self.latent_size, generator=generator).to(device)
            latents_BNZ[:, n] = mean_B1Z[:, 0] + noise_BZ * (0.5 * log_variance_B1Z[:, 0]).exp()
        return LatentSample(latents_BNZ, sampled_BNA if self.num_classes else None)


def normal_nats(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the negative log-density of a diagonal normal distribution.

    It is summed over the last axis.
    """
    log_two_pi = 1.8378770664093453
    return 0.5 * (log_two_pi + log_variance + (values - mean) ** 2 * (-log_variance).exp()).sum(-1)


def num_prior_params(config: LatentPriorConfig, latent_size: int, num_classes: tuple[int, ...]) -> int:
    """Count the parameters of `LatentPrior`."""
    d, num_all_classes = config.hidden_size, sum(num_classes)
    blocks = config.num_hidden_layers * num_block_params(d, config.intermediate_size) + 2 * d
    attributes = 2 * num_all_classes * d + num_all_classes * (d + 1)
    return blocks + d + (latent_size + 1) * d + attributes + (d + 1) * 2 * latent_size
