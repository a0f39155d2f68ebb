"""Measure whether a model uses its latents.

Collapse is judged by the loss: latents from the prior must predict a piece worse than those of its own posterior. The number of active
units (Burda et al. 2016, arXiv 1509.00519) is reported beside it, but free bits keep it high by construction.

Shapes: B sequences, N latents of a sequence, Z latent size, T positions.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder, PlotSeries
from provenlm.domains.music.evaluate.backoff_ngrams import fit_backoff
from provenlm.domains.music.evaluate.config import LatentEvalConfig, MusicEvalConfig
from provenlm.domains.music.evaluate.controls import record_conditioning, record_interpolation, record_reconstruction
from provenlm.evaluation.arrays import FloatArray
from provenlm.evaluation.confidence import ratio_interval
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.spec import Posterior
from provenlm.training.config_sections import TrainEvalConfig

SEQUENCES_PER_PASS = 8
MIN_VARIANCE = 0.01  # of the posterior mean of an active unit
MIN_KL = 0.05  # nats of a dimension that carries information
MIN_GAP_RATIO = 0.02
NGRAM_ORDER = 6
LATENTS = frozenset({"latent", "validation_split"})


@dataclass(frozen=True)
class LatentLosses:
    """Hold the losses and the divergence of every held-out sequence.

    `nats` are summed over the targets of a sequence, by the source of its latents; `kl_sums` over its latents.
    `kl_Z` is the mean divergence of each dimension per latent, `variance_Z` the variance of the posterior means.
    """

    nats: Mapping[str, FloatArray]
    kl_sums: FloatArray
    num_targets: FloatArray
    num_latents: int
    kl_Z: FloatArray
    variance_Z: FloatArray


def latent_probes(config: MusicEvalConfig) -> Mapping[str, Probe]:
    """Return the probes of models with latents."""
    collapsed = "the decoder ignores its latents (posterior collapse): more free bits, slower KL annealing, or a weaker decoder"
    latents = config.latents
    return {
        "latent_losses": Probe(
            lambda context, metrics: record_latent_losses(context, metrics, latents),
            LATENTS,
            {
                "prior_gap.ratio": Check(f"> {MIN_GAP_RATIO}", collapsed),
                "prior_gap.ci_low": Check("> 0", collapsed),
                "bound": Check("< unigram.loss", "the model is no better than token frequencies: train longer"),
            },
        ),
        "reconstruction": Probe(
            lambda context, metrics: record_reconstruction(context, metrics, latents, validation_batch(context, latents)),
            LATENTS,
            {"chroma": Check("> chroma.shuffled", "a reconstruction is no more like its piece than like another one")},
        ),
        "interpolation": Probe(
            lambda context, metrics: record_interpolation(context, metrics, latents, validation_batch(context, latents)),
            LATENTS,
            {"monotonicity": Check("> 0", "pieces between two latents do not move from one to the other")},
        ),
        "conditioning": Probe(
            lambda context, metrics: record_conditioning(context, metrics, latents, validation_batch(context, latents)),
            LATENTS | {"attributes"},
            {"correlation.min": Check("> 0.3", "what is asked for with an attribute hardly shows in what is generated")},
        ),
    }


def record_latent_losses(context: EvalContext, metrics: MetricRecorder, config: LatentEvalConfig) -> None:
    """Record the bound and its parts, and how much worse latents of the prior do."""
    losses = measure_latent_losses(context, config)
    mean = {name: float(nats.sum() / losses.num_targets.sum()) for name, nats in losses.nats.items()}
    kl = float(losses.kl_sums.sum() / losses.num_targets.sum())
    metrics.add_count("sequences", len(losses.num_targets), "sequences", "Held-out sequences that were scored")
    metrics.add_count("targets", int(losses.num_targets.sum()), "tokens", "Targets of the held-out sequences")
    nats = "nats/token"
    metrics.add_measurement("posterior.loss", mean["posterior"], nats, "Mean loss with latents sampled from the posterior")
    metrics.add_measurement("prior.loss", mean["prior"], nats, "Mean loss with latents sampled from the prior")
    metrics.add_measurement("shuffled.loss", mean["shuffled"], nats, "Mean loss with the latents of another held-out sequence")
    metrics.add_measurement("kl", kl, nats, "Divergence of the posterior from the standard normal distribution, per token")
    record_bound(context, metrics, config, mean["posterior"] + kl)
    gap = ratio_interval(losses.nats["prior"] - losses.nats["posterior"], losses.num_targets)
    description = "Loss with latents of the prior minus loss with latents of the posterior: 0 if the decoder ignores its latents"
    metrics.add_measurement("prior_gap", gap.value, nats, description)
    metrics.add_measurement("prior_gap.ci_low", gap.low, nats, f"Lower end of the 95 % interval over sequences. {description}")
    metrics.add_measurement("prior_gap.ratio", gap.value / mean["prior"], "ratio", "That gap relative to the loss with the prior")
    shuffled_gap = mean["shuffled"] - mean["posterior"]
    metrics.add_measurement("shuffled_gap", shuffled_gap, nats, "Loss with latents of another sequence minus that with their own")
    metrics.add_measurement("kl_per_latent", float(losses.kl_Z.sum()), "nats/latent", "Divergence of the posterior per latent")
    num_dims = len(losses.kl_Z)
    metrics.add_count("dimensions", num_dims, "dimensions", "Dimensions of a latent")
    active = int((losses.variance_Z > MIN_VARIANCE).sum())
    description = f"Dimensions whose posterior mean has a variance above {MIN_VARIANCE}: does not show collapse by itself"
    metrics.add_measurement("active_units", active, "dimensions", description)
    informative = int((losses.kl_Z > MIN_KL).sum())
    metrics.add_measurement("informative_units", informative, "dimensions", f"Dimensions with a divergence above {MIN_KL} nats")
    lines = {"divergence": np.sort(losses.kl_Z)[::-1].round(4).tolist()}
    x = [float(number) for number in range(1, num_dims + 1)]
    metrics.series.append(
        PlotSeries("kl_by_dimension", "line", "Divergence of each dimension, sorted", "dimension", "nats/latent", x, lines)
    )


@torch.inference_mode()
def record_bound(context: EvalContext, metrics: MetricRecorder, config: LatentEvalConfig, conditional_bound: float) -> None:
    """Record the bound on the loss beside n-gram models, which need no latents.

    `conditional_bound` is given the attributes; the term that measures validation data in training includes what they cost.
    """
    description = "Negative evidence lower bound given the attributes of the sequences, if the model has any"
    metrics.add_measurement("conditional_bound", conditional_bound, "nats/token", description)
    bound = conditional_bound
    if context.objectives is not None:
        objective, total, num_targets = context.objectives(context.model)[0], 0.0, 0
        for batch in validation_passes(context, config):
            total += float(objective.loss(batch)[objective.eval_term]) * batch.num_targets
            num_targets += batch.num_targets
        bound = total / num_targets
    description = "Bound on the loss as in training: the attributes cost what the prior gives them"
    metrics.add_measurement("bound", bound, "nats/token", description)
    metrics.add_count("uniform.loss", math.log(context.tokens.vocab_size), "nats/token", "ln(vocab_size): the loss of guessing")
    val, model = context.tokens.val, fit_backoff(context.tokens.train, context.tokens.vocab_size, NGRAM_ORDER)
    for name, order in (("unigram", 1), ("backoff", NGRAM_ORDER)):
        description = f"Mean loss of a {order}-gram model with Witten-Bell backoff on all held-out tokens"
        metrics.add_measurement(f"{name}.loss", float(model.nats(val, order).mean()), "nats/token", description)


@torch.inference_mode()
def measure_latent_losses(context: EvalContext, config: LatentEvalConfig) -> LatentLosses:
    """Score held-out sequences with latents from three sources.

    They are the posterior, the prior and the posterior of another sequence.
    """
    assert context.latent is not None
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "latent losses"))
    nats: dict[str, list[FloatArray]] = {"posterior": [], "prior": [], "shuffled": []}
    targets, kl_sums, kl_rows, means = [], [], [], []
    for batch in validation_passes(context, config):
        posterior = context.latent.posterior(context.model, batch)
        for name, latents_BNZ in sample_latents(context, batch, posterior, generator).items():
            nats[name].append(context.latent.token_nats(context.model, batch, latents_BNZ).double().sum(1).cpu().numpy())
        mean, log_variance = posterior.mean_BNZ.double(), posterior.log_variance_BNZ.double()
        kl_BNZ = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance) * posterior.is_latent_BN[..., None]
        kl_sums.append(kl_BNZ.sum((1, 2)).cpu().numpy())
        kl_rows.append(kl_BNZ[posterior.is_latent_BN].cpu().numpy())
        means.append(mean[posterior.is_latent_BN].cpu().numpy())
        targets.append((batch.targets_BT >= 0).sum(1).cpu().numpy())
    kl_rows_MZ, means_MZ = np.concatenate(kl_rows), np.concatenate(means)
    return LatentLosses(
        {name: np.concatenate(values) for name, values in nats.items()},
        np.concatenate(kl_sums),
        np.concatenate(targets).astype(np.float64),
        len(kl_rows_MZ),
        kl_rows_MZ.mean(0),
        means_MZ.var(0),
    )


def sample_latents(context: EvalContext, batch: Any, posterior: Posterior, generator: torch.Generator) -> dict[str, Tensor]:
    """Return latents_BNZ of a batch by their source.

    `posterior`, `prior`, and `shuffled`: those of another sequence, repeated where it has fewer.
    """
    assert context.latent is not None
    noise_BNZ = torch.randn(posterior.mean_BNZ.shape, generator=generator).to(posterior.mean_BNZ)
    posterior_BNZ = posterior.mean_BNZ + (0.5 * posterior.log_variance_BNZ).exp() * noise_BNZ
    num_sequences, num_latents = posterior.is_latent_BN.shape
    attributes_BNA = getattr(batch, "attributes_BNA", None)
    prior = context.latent.prior(context.model, num_sequences, num_latents, generator, attributes_BNA)
    source_B = torch.arange(num_sequences).roll(1)
    counts_B1 = posterior.is_latent_BN.sum(1)[source_B, None].clamp(min=1)
    latent_BN = torch.arange(num_latents, device=counts_B1.device) % counts_B1
    shuffled_BNZ = posterior_BNZ[source_B[:, None].to(latent_BN.device), latent_BN]
    return {"posterior": posterior_BNZ, "prior": prior.latents_BNZ, "shuffled": shuffled_BNZ}


def validation_passes(context: EvalContext, config: LatentEvalConfig) -> Iterator[Any]:
    """Yield evenly spaced held-out sequences, SEQUENCES_PER_PASS at a time.

    They are on the device of the model.
    """
    if context.make_trainer is None:
        raise ValueError("the context must be able to assemble a training, got none")
    trainer = context.make_trainer(context.model, context.tokens, {"eval": TrainEvalConfig(1, config.num_sequences)})
    for batch in trainer.dataloader.val_batches:
        for start in range(0, batch.num_sequences, SEQUENCES_PER_PASS):
            part = batch.select(slice(start, start + SEQUENCES_PER_PASS))
            yield part.map(lambda tensor: tensor.to(context.device))


def validation_batch(context: EvalContext, config: LatentEvalConfig) -> Any:
    """Return the held-out sequences to generate from, as one batch."""
    if context.make_trainer is None:
        raise ValueError("the context must be able to assemble a training, got none")
    number = config.num_reconstructions
    changes = {"eval": TrainEvalConfig(1, number), "global_batch_size": number, "micro_batch_size": number}
    (batch, *_) = context.make_trainer(context.model, context.tokens, changes).dataloader.val_batches
    return batch.map(lambda tensor: tensor.to(context.device))
