"""Test a model with latents: no leak, random tokens at chance, a learned batch.

Shapes: B sequences, T positions, N latents of a sequence, Z latent size.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder, PlotSeries
from provenlm.domains.music.evaluate.config import LatentEvalConfig, MusicEvalConfig
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.objective import IGNORE

NUM_SEQUENCES = 4
NUM_CUTS = 6  # positions from which tokens are replaced
OVERFIT_LR, OVERFIT_SEQ_LEN = 0.01, 48


def latent_integration_probes(config: MusicEvalConfig) -> Mapping[str, Probe]:
    """Return the probes for leaks, random tokens and overfitting of latent models."""
    needs = frozenset({"latent"})
    return {
        "latent_causality": Probe(
            record_causality,
            needs,
            {
                "max_past_change": Check("< 1e-3", "the loss of a token depends on later tokens: check the attention mask"),
                "min_present_change": Check("> 1e-3", "the decoder ignores its input, so that the causality test proves nothing"),
            },
        ),
        "latent_random_tokens": Probe(
            record_random_tokens,
            needs,
            {"z_score": Check(">= -4", "the loss on random tokens is below ln(vocab_size): the decoder sees its targets")},
        ),
        "latent_overfit": Probe(
            lambda context, metrics: record_overfit(context, metrics, config.latents),
            needs,
            {"loss": Check("< 0.5 * initial_loss", "a small model cannot learn one batch: check loss, targets and gradients")},
        ),
    }


@torch.inference_mode()
def record_causality(context: EvalContext, metrics: MetricRecorder) -> None:
    """Replace inputs from a position on, with fixed latents, and compare losses.

    Losses before the position must not change, later ones must.
    """
    assert context.latent is not None
    batch = _training_batch(context)
    latents_BNZ = context.latent.posterior(context.model, batch).mean_BNZ
    nats_BT = context.latent.token_nats(context.model, batch, latents_BNZ)
    replaced_BT = _random_like(context, batch.inputs_BT, "latent causality")
    past, present = 0.0, math.inf
    cuts = sorted({int(x) for x in torch.linspace(1, batch.seq_len - 1, NUM_CUTS)})
    for cut in cuts:
        inputs_BT = torch.cat([batch.inputs_BT[:, :cut], replaced_BT[:, cut:]], 1)
        change_BT = (context.latent.token_nats(context.model, replace(batch, inputs_BT=inputs_BT), latents_BNZ) - nats_BT).abs()
        past, present = max(past, float(change_BT[:, :cut].max())), min(present, float(change_BT[:, cut:].max()))
    metrics.add_count("num_positions", len(cuts), "positions", "Positions of training sequences from which inputs were replaced")
    description = "Largest change of a loss before the replaced inputs, with fixed latents: 0 for a causal decoder"
    metrics.add_measurement("max_past_change", past, "nats", description)
    description = "Smallest, over positions, of the largest change of a loss at or after the replaced inputs"
    metrics.add_measurement("min_present_change", present, "nats", description)


@torch.inference_mode()
def record_random_tokens(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record the loss on random tokens, given latents that know nothing of them."""
    assert context.latent is not None
    batch = _training_batch(context)
    targets_BT = _random_like(context, batch.targets_BT, "random targets")
    is_target_BT = batch.targets_BT != IGNORE
    random_batch = replace(
        batch,
        inputs_BT=torch.cat([batch.inputs_BT[:, :1], targets_BT[:, :-1]], 1),
        targets_BT=targets_BT.where(is_target_BT, IGNORE),
    )
    attributes_BNA = getattr(batch, "attributes_BNA", None)
    num_latents = context.latent.posterior(context.model, batch).is_latent_BN.shape[1]
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "random latents"))
    sample = context.latent.prior(context.model, batch.num_sequences, num_latents, generator, attributes_BNA)
    nats = context.latent.token_nats(context.model, random_batch, sample.latents_BNZ)[is_target_BT].double()
    excess = float(nats.mean()) - math.log(context.tokens.vocab_size)
    standard_error = float(nats.std()) / math.sqrt(len(nats))
    metrics.add_measurement("loss", float(nats.mean()), "nats/token", "Mean loss on random tokens with latents of the prior")
    metrics.add_measurement("excess_loss", excess, "nats/token", "That loss minus ln(vocab_size): below 0 only by chance")
    z_score = excess / max(standard_error, 1e-9)
    metrics.add_measurement("z_score", z_score, "standard errors", "Loss on random tokens minus ln(vocab_size), in standard errors")


def record_overfit(context: EvalContext, metrics: MetricRecorder, config: LatentEvalConfig) -> None:
    """Record the loss of a small model before and after training on one batch."""
    if context.objectives is None or context.make_trainer is None:
        raise ValueError("the context must be able to assemble a training, got none")
    trainer = context.make_trainer(context.model, context.tokens, {"seq_len": min(OVERFIT_SEQ_LEN, context.max_seq_len)})
    batch = trainer.dataloader.batch_at(0, NUM_SEQUENCES).map(lambda tensor: tensor.to(context.device))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(rng.derive_seed(context.seed, "overfit latents"))
        model = context.build_small(context.tokens.vocab_size).to(context.device).train()
        objective = context.objectives(model)[0]
        parameters = [parameter for group in objective.param_groups.values() for parameter in group]
        optimizer = torch.optim.Adam(parameters, OVERFIT_LR)
        losses = []
        for _ in range(config.overfit_steps):
            loss = objective.loss(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    metrics.add_count("num_targets", batch.num_targets, "tokens", f"Targets of the batch that is learned in {len(losses)} steps")
    metrics.add_measurement("initial_loss", losses[0], "nats/token", "Minimised loss of the first step")
    metrics.add_measurement("loss", losses[-1], "nats/token", "Minimised loss of the last step")
    lines = {"loss": losses, "ln V": [math.log(context.tokens.vocab_size)] * len(losses)}
    x = [float(step) for step in range(1, len(losses) + 1)]
    metrics.series.append(PlotSeries("by_step", "line", "Loss while one batch is learned", "step", "nats/token", x, lines))


def _training_batch(context: EvalContext) -> Any:
    return context.train_batch(NUM_SEQUENCES).map(lambda tensor: tensor.to(context.device))


def _random_like(context: EvalContext, tokens_BT: Tensor, label: str) -> Tensor:
    """Return random token ids of the same shape."""
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, label))
    return torch.randint(context.tokens.vocab_size, tokens_BT.shape, generator=generator).to(tokens_BT)
