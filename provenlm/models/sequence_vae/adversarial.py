"""Train the decoder against the discriminator.

A fake sequence is what the decoder samples at every position after the real tokens before it, with each latent drawn anew from the
prior. Samples are straight-through Gumbel softmax (Jang et al. 2017, arXiv 1611.01144): one-hot forward, relaxed backward. The loss of
the discriminator is the hinge loss (Lim and Ye 2017, arXiv 1705.02894); the decoder also matches the discriminator's mean features
(Salimans et al. 2016, arXiv 1606.03498). The weight of both is that of VQGAN (Esser et al. 2021, arXiv 2012.09841), for a share.

Shapes: B sequences, T positions, N bars, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.spec import Posterior
from provenlm.models.sequence_vae.discriminator import Judgement
from provenlm.models.sequence_vae.model import EVAL_SEED, SequenceVAE, num_latents, segment_means


def is_active(model: SequenceVAE) -> bool:
    """Return whether the decoder trains against a discriminator.

    It does once the VAE was trained for `start_step` updates.
    """
    return model.config.discriminator is not None and int(model.num_updates) >= model.config.discriminator.start_step


def adversarial_terms(
    model: SequenceVAE, ignore_index: int, batch: Any, posterior: Posterior, latents_BNZ: Tensor
) -> dict[str, Tensor]:
    """Compute what the decoder minimizes against the discriminator.

    That is minus the score of fake bars, and the distance of mean features.
    """
    assert model.discriminator is not None
    fake_BTV = sample_fake(model, batch, model.stop_gradient(latents_BNZ))
    with frozen(model.discriminator):
        fake = judge(model, ignore_index, batch, fake_BTV)
        with torch.no_grad():
            real = judge(model, ignore_index, batch, one_hot_targets(model, batch, fake_BTV.dtype))
    distances = [(a_D - b_D).abs().mean() for a_D, b_D in zip(fake.features, real.features, strict=True)]
    return {
        "adversarial": -fake.scores_BN[posterior.is_latent_BN].mean(),
        "feature_matching": torch.stack(distances).mean(),
    }


def discriminator_loss(model: SequenceVAE, ignore_index: int, batch: Any) -> Mapping[str, Tensor]:
    """Compute the hinge loss on real and fake bars.

    It is 0 before the discriminator begins, `pretraining_steps` updates before the decoder trains against it.

    `discriminator_accuracy` is the fraction of bars on the right side of 0.
    """
    c = model.config.discriminator
    assert c is not None and model.discriminator is not None
    if int(model.num_updates) < c.start_step - c.pretraining_steps:
        zero = torch.stack([parameter.sum() for parameter in model.discriminator.parameters()]).sum() * 0.0
        return {"loss": zero}
    with torch.no_grad():
        posterior = model.posterior(batch)
        fake_BTV = sample_fake(model, batch, model.sample(posterior))
    real, fake = (
        judge(model, ignore_index, batch, tokens_BTV).scores_BN[posterior.is_latent_BN]
        for tokens_BTV in (one_hot_targets(model, batch, fake_BTV.dtype), fake_BTV)
    )
    loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    accuracy = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
    return {"loss": loss, "discriminator_accuracy": accuracy}


def sample_fake(model: SequenceVAE, batch: Any, latents_BNZ: Tensor) -> Tensor:
    """Sample tokens_BTV of every position.

    Each latent is drawn anew from the prior, given the earlier ones.
    """
    attributes_BNA = model.attributes(batch)
    with torch.no_grad():
        noise_BNZ = model.noise(latents_BNZ)
        prior_BNZ = noise_BNZ if model.prior is None else model.prior.resample(latents_BNZ, attributes_BNA, noise_BNZ)
    logits_BTV = model.decode(batch.inputs_BT, batch.bars_BT, prior_BNZ, attributes_BNA)
    return gumbel_softmax(logits_BTV, temperature(model), model.training)


def gumbel_softmax(logits_BTV: Tensor, temperature: float, hard: bool) -> Tensor:
    """Sample tokens as distributions.

    `hard`: one-hot with the gradient of the relaxed sample; else relaxed, with fixed noise.
    """
    if hard:
        return F.gumbel_softmax(logits_BTV, temperature, hard=True)
    generator = torch.Generator().manual_seed(EVAL_SEED)
    uniform_BTV = torch.rand(logits_BTV.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(logits_BTV)
    return ((logits_BTV - (-uniform_BTV.log()).log()) / temperature).softmax(-1)


def temperature(model: SequenceVAE) -> float:
    """Return the temperature of the samples.

    It falls linearly after the start of the discriminator.
    """
    c = model.config.discriminator
    assert c is not None
    progress = min(1.0, max(0, int(model.num_updates) - c.start_step) / c.temperature_steps)
    return c.start_temperature + (c.end_temperature - c.start_temperature) * progress


def judge(model: SequenceVAE, ignore_index: int, batch: Any, tokens_BTV: Tensor) -> Judgement:
    """Score distributions over tokens at the targets of a batch.

    They are embedded by the VAE's own embeddings, which get no gradient.
    """
    assert model.discriminator is not None
    is_token_BT = batch.targets_BT != ignore_index
    size = num_latents(batch)
    mean_BNT, _ = segment_means(batch.bars_BT.masked_fill(~is_token_BT, size), size, tokens_BTV.dtype)
    judgement: Judgement = model.discriminator(tokens_BTV @ model.stop_gradient(model.embed_tokens.weight), is_token_BT, mean_BNT)
    return judgement


def one_hot_targets(model: SequenceVAE, batch: Any, dtype: torch.dtype) -> Tensor:
    """Return the targets as tokens_BTV; any token where there is none."""
    return F.one_hot(batch.targets_BT.clamp(min=0), model.vocab_size).to(dtype)


def update_weight(model: SequenceVAE, nll: Tensor, adversarial: Tensor) -> None:
    """Set the weight that gives the adversarial gradient its share.

    At the output matrix its norm is then a share of that of the likelihood's gradient.

    In training only: an evaluation keeps the last weight.
    """
    if not (model.training and torch.is_grad_enabled()):
        return
    c, weight = model.config.discriminator, model.lm_head.weight
    assert c is not None
    nll_norm, adversarial_norm = (torch.autograd.grad(term, weight, retain_graph=True)[0].norm() for term in (nll, adversarial))
    ratio = (nll_norm / adversarial_norm.clamp(min=1e-12)).clamp(max=c.max_weight / c.gradient_share)
    model.adversarial_weight.copy_(c.gradient_share * ratio)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of a module's parameters within a context."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
