"""Define the objectives of the sequence VAE.

They are the evidence lower bound, the prior and, for a VAE-GAN, the discriminator.

All losses are in nats per target that counts, but for the adversarial ones. Noise of evaluation is always the same, sampled tokens are
relaxed there, and weights are constants: the losses are then smooth functions of the parameters.

Shapes: B sequences, T positions, N latents of a sequence, Z latent size, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.objective import Objective, ParamGroupName, StepMetrics
from provenlm.models.common.spec import Posterior
from provenlm.models.sequence_vae.adversarial import adversarial_terms, discriminator_loss, is_active, update_weight
from provenlm.models.sequence_vae.model import SequenceVAE
from provenlm.models.sequence_vae.prior import normal_nats


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """Return the objectives; they share no parameter.

    They are `vae`, `prior` and `discriminator`, as far as the model has them.
    """
    assert isinstance(model, SequenceVAE)
    adversarial = ("adversarial", "feature_matching") if is_active(model) else ()
    vae = Objective(
        "vae",
        _param_groups(model, ("prior.", "discriminator."), exclude=True),
        partial(vae_loss, model, ignore_index),
        "negative_elbo",
        partial(count_update, model),
        terms=("nll", "kl", *adversarial),
    )
    result = [vae]
    if model.prior is not None:
        terms = ("latent_nats", "attribute_nats") if model.config.num_attribute_classes else ("latent_nats",)
        loss = partial(prior_loss, model, ignore_index)
        result.append(Objective("prior", _param_groups(model, ("prior.",)), loss, "loss", terms=terms))
    if model.discriminator is not None:
        loss = partial(discriminator_loss, model, ignore_index)
        groups = _param_groups(model, ("discriminator.",))
        result.append(Objective("discriminator", groups, loss, "loss"))
    return result


def vae_loss(model: SequenceVAE, ignore_index: int, batch: Any) -> Mapping[str, Tensor]:
    """Compute the negative log-likelihood and the KL divergence with free bits.

    `kl_raw` has no free bits; `negative_elbo` is the bound on the negative log-likelihood of the tokens under standard normal latents:
    the attributes count, because they are functions of the tokens.
    """
    posterior = model.posterior(batch)
    attributes_BNA = model.attributes(batch)
    latents_BNZ = model.sample(posterior)
    logits_BTV = model.decode(batch.inputs_BT, batch.bars_BT, latents_BNZ, attributes_BNA)
    num_targets = (batch.targets_BT != ignore_index).sum()
    nll = nats_of_targets(logits_BTV, batch.targets_BT, ignore_index).sum() / num_targets
    kl_MZ = kl_of_latents(posterior)
    kl = kl_MZ.clamp(min=model.config.free_bits).sum() / num_targets
    kl_raw = (kl_MZ.sum() / num_targets).detach()
    terms = {"nll": nll, "kl": kl, "kl_raw": kl_raw, "negative_elbo": nll.detach() + kl_raw}
    if model.prior is not None:
        with torch.no_grad():
            prior_nats = model.prior.nats(latents_BNZ, attributes_BNA)
        attribute_nats = (prior_nats.attribute_BN * posterior.is_latent_BN).sum() / num_targets
        terms["negative_elbo"] = terms["negative_elbo"] + attribute_nats
    loss = nll + model.kl_weight * kl
    if is_active(model):
        critique = adversarial_terms(model, ignore_index, batch, posterior, latents_BNZ)
        update_weight(model, nll, critique["adversarial"] + critique["feature_matching"])
        terms |= critique | {"adversarial_weight": model.adversarial_weight.clone()}
        loss = loss + model.adversarial_weight.clone() * (critique["adversarial"] + critique["feature_matching"])
    return {"loss": loss, **terms}


def prior_loss(model: SequenceVAE, ignore_index: int, batch: Any) -> Mapping[str, Tensor]:
    """Compute the negative log-likelihood of latents and attributes.

    It is that of latents sampled from the posterior, under the prior.

    `kl_prior` is the KL divergence of the posterior from this prior, estimated with the sampled latents.
    """
    assert model.prior is not None
    with torch.no_grad():
        posterior = model.posterior(batch)
        latents_BNZ = model.sample(posterior)
    prior_nats = model.prior.nats(latents_BNZ, model.attributes(batch))
    num_targets = (batch.targets_BT != ignore_index).sum()
    latent_nats, attribute_nats = ((nats_BN * posterior.is_latent_BN).sum() / num_targets for nats_BN in prior_nats)
    entropy_BN = normal_nats(latents_BNZ, posterior.mean_BNZ, posterior.log_variance_BNZ)
    kl_prior = latent_nats.detach() - (entropy_BN * posterior.is_latent_BN).sum() / num_targets
    terms = {"latent_nats": latent_nats, "kl_prior": kl_prior}
    if model.config.num_attribute_classes:
        terms["attribute_nats"] = attribute_nats
    return {"loss": latent_nats + attribute_nats, **terms}


def nats_of_targets(logits_BTV: Tensor, targets_BT: Tensor, ignore_index: int) -> Tensor:
    """Return the negative log-likelihood nats_BT of each target.

    It is 0 where there is none.
    """
    with torch.autocast(logits_BTV.device.type, enabled=False):
        logits_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
        nats_N = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=ignore_index, reduction="none")
    return nats_N.view_as(targets_BT)


def kl_of_latents(posterior: Posterior) -> Tensor:
    """Return the KL divergence kl_MZ of each dimension of each latent.

    It is that from the standard normal distribution; M counts the latents of all sequences.
    """
    variance_BNZ = posterior.log_variance_BNZ.exp()
    kl_BNZ: Tensor = 0.5 * (posterior.mean_BNZ**2 + variance_BNZ - 1 - posterior.log_variance_BNZ)
    return kl_BNZ[posterior.is_latent_BN]


def count_update(model: SequenceVAE, applied: bool) -> StepMetrics:
    """Count an applied update and report the weights of the next one."""
    model.num_updates += applied
    metrics = {"kl_weight": (model.kl_weight, "", "Weight of the KL divergence in the loss of the VAE")}
    if is_active(model):
        description = "Factor that scales the adversarial gradient at the output matrix to its share of the likelihood's"
        metrics["adversarial_weight"] = (float(model.adversarial_weight), "", description)
    return metrics


def _param_groups(
    model: SequenceVAE, prefixes: tuple[str, ...], exclude: bool = False
) -> dict[ParamGroupName, Sequence[nn.Parameter]]:
    """Group the parameters whose names start with `prefixes`, or all others."""
    groups: dict[ParamGroupName, list[nn.Parameter]] = {"embedding": [], "matrix": [], "default": []}
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes) != exclude:
            groups[param_group_of(name)].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


def param_group_of(name: str) -> ParamGroupName:
    """Return the optimizer group of a parameter.

    What concerns latents and attributes, norms and biases are in the default group.
    """
    if name in ("embed_tokens.weight", "lm_head.weight"):
        return "embedding"
    return "matrix" if name.endswith(("_proj.weight", "_proj.parametrizations.weight.original")) else "default"
