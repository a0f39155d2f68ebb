"""Overfit a small model of the evaluated architecture to one batch.

A model that cannot do it has a broken gradient, a broken loss or wrong targets.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder, PlotSeries
from provenlm.core.progress import progress_bar
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes.heldout_loss import causal_ceiling
from provenlm.evaluation.token_loss import IGNORE, EvalWindows, make_batch, make_windows, sample_documents
from provenlm.models.common.objective import TokenBatch


@dataclass(frozen=True)
class OverfitBatchConfig:
    """Configure the batch that is overfitted and the training with Adam."""

    num_sequences: int = 4
    seq_len: int = 32
    steps: int = 60
    lr: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("num_sequences", self.num_sequences), ("seq_len", self.seq_len), ("steps", self.steps)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")


def overfit_batch_probe(config: OverfitBatchConfig) -> Probe:
    """Return the probe that trains a new small model on one batch.

    It compares the loss with the lowest achievable loss.
    """

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        windows = _longest_windows(context, config)
        split = context.tokens.train
        inputs_BT, targets_BT = make_batch(context, split, windows, np.arange(len(windows.starts)))
        torch.manual_seed(rng.derive_seed(context.seed, "memorised"))
        model = context.build_small(context.tokens.vocab_size).to(context.device).train()
        optimizer = torch.optim.Adam(model.parameters(), config.lr)
        losses = []
        with progress_bar("overfit one batch", "steps", config.steps) as bar:
            for _ in range(config.steps):
                loss = next(iter(context.losses(model, TokenBatch(inputs_BT, targets_BT)).values()))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.item())
                bar.update()
        with torch.inference_mode():
            logits_BTV = context.logits(model.eval(), inputs_BT).float()
        nats = float(F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE))
        is_target = targets_BT != IGNORE
        num_correct = int((logits_BTV.argmax(-1) == targets_BT)[is_target].sum())
        ceiling = causal_ceiling(split, windows)
        metrics.add_count("num_params", sum(p.numel() for p in model.parameters()), "parameters", "Parameters of the small model")
        metrics.add_count(
            "num_targets", int(is_target.sum()), "tokens", f"Targets of the batch that is overfitted in {config.steps} steps"
        )
        metrics.add_measurement("loss", nats, "nats/token", "Mean loss on the batch after overfitting it")
        description = "Lowest loss of any causal predictor on the batch: above 0 if equal prefixes continue differently"
        metrics.add_count("min_achievable_loss", ceiling.min_loss, "nats/token", description)
        metrics.add_measurement(
            "excess_loss",
            nats - ceiling.min_loss,
            "nats/token",
            "Loss on the overfitted batch minus the lowest achievable loss: near 0 if overfitting succeeded",
        )
        metrics.add_measurement(
            "num_correct", num_correct, "tokens", "Targets of the overfitted batch that are the most probable next token"
        )
        max_correct, chance_correct = (
            round(ceiling.max_accuracy * ceiling.num_targets),
            ceiling.num_targets / context.tokens.vocab_size,
        )
        metrics.add_count(
            "num_correct.ceiling", max_correct, "tokens", "Targets of the batch that the best causal predictor gets right"
        )
        metrics.add_count(
            "num_correct.chance", chance_correct, "tokens", "Targets of the batch that random tokens get right on average"
        )
        lines = {"loss": losses, "ln V": [math.log(context.tokens.vocab_size)] * len(losses)}
        x = [float(step) for step in range(1, len(losses) + 1)]
        metrics.series.append(
            PlotSeries("by_step", "line", "Training loss while one batch is overfitted", "step", "nats/token", x, lines)
        )

    hint = "a small model cannot overfit one batch: check loss, targets and gradients, or raise validate.overfit_batch.steps"
    return Probe(probe, frozenset({"next_token_logits"}), {"excess_loss": Check("< 0.1", hint)})


def _longest_windows(context: EvalContext, config: OverfitBatchConfig) -> EvalWindows:
    """Return the longest windows of sampled training documents."""
    split = context.tokens.train
    min_targets = config.num_sequences * config.seq_len
    windows = make_windows(split, min(config.seq_len, context.max_seq_len), sample_documents(split, min_targets, context.seed))
    longest = np.sort(np.argsort(-windows.lengths, kind="stable")[: config.num_sequences])
    return EvalWindows(windows.starts[longest], windows.stops[longest], windows.documents[longest])
