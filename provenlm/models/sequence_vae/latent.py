"""Provide the latent space of the sequence VAE to evaluation and generation.

Shapes: B sequences, T positions, N latents of a sequence, Z latent size, A attributes, V vocabulary.
"""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import Latent, LatentSample, Posterior
from provenlm.models.sequence_vae.losses import nats_of_targets
from provenlm.models.sequence_vae.model import SequenceVAE


def posterior(model: nn.Module, batch: Any) -> Posterior:
    """Return the posterior of the latents of a batch."""
    assert isinstance(model, SequenceVAE)
    return model.posterior(batch)


def token_nats(model: nn.Module, batch: Any, latents_BNZ: Tensor) -> Tensor:
    """Return the negative log-likelihood nats_BT of targets, given latents."""
    assert isinstance(model, SequenceVAE)
    logits_BTV = model.decode(batch.inputs_BT, batch.bars_BT, latents_BNZ, model.attributes(batch))
    return nats_of_targets(logits_BTV, batch.targets_BT, IGNORE)


def sample_prior(
    model: nn.Module, num_sequences: int, num_latents: int, generator: Generator, attributes_BNA: Tensor | None
) -> LatentSample:
    """Sample latents from the prior, autoregressive or standard normal.

    `generator` is a CPU generator.
    """
    assert isinstance(model, SequenceVAE)
    if model.prior is not None:
        return model.prior.sample(num_sequences, num_latents, generator, attributes_BNA)
    latents_BNZ = torch.randn(num_sequences, num_latents, model.config.latent_size, generator=generator)
    return LatentSample(latents_BNZ.to(model.lm_head.weight), None)


def logits(model: nn.Module, tokens_BT: Tensor, latent_numbers_BT: Tensor, sample: LatentSample, cache: KVCache | None) -> Tensor:
    """Return logits_BTV of the next token, given latents."""
    assert isinstance(model, SequenceVAE)
    return model.decode(tokens_BT, latent_numbers_BT, sample.latents_BNZ, sample.attributes_BNA, cache)


def has_cache(model: nn.Module) -> bool:
    """Return whether `logits` takes a cache: for plain attention."""
    assert isinstance(model, SequenceVAE)
    return model.config.attention == "plain"


LATENT = Latent(posterior, token_nats, sample_prior, logits, has_cache)
