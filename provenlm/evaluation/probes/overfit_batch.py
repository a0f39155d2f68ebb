"""A small net of the subject's kind and one real batch in, figures on whether it can learn that batch by heart out.

A net that cannot has a broken path, a broken loss or targets that are not the tokens that follow.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import MetricRecorder, PlotSeries
from provenlm.core.progress import progress_bar
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes.heldout_loss import causal_ceiling
from provenlm.evaluation.token_loss import IGNORE, EvalWindows, make_batch, make_windows, sample_documents


@dataclass(frozen=True)
class OverfitBatchConfig:
    """The `memorise` section of validate, typed: one batch of `rows` rows of `tokens` targets, `steps` of Adam at `rate`."""

    num_sequences: int
    seq_len: int
    steps: int
    lr: float

    def __post_init__(self) -> None:
        if min(self.num_sequences, self.seq_len, self.steps) < 1 or self.lr <= 0:
            raise ValueError("rows, tokens and steps must be at least 1, and rate above 0")


def overfit_batch_probe(config: OverfitBatchConfig) -> Probe:
    """Train a new small net on one batch of the training split and measure its loss there, beside the least that can be had."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        windows = _longest_windows(context, config)
        split = context.tokens.train
        inputs_BT, targets_BT = make_batch(context, split, windows, np.arange(len(windows.starts)))
        torch.manual_seed(rng.derive_seed(context.seed, "memorised"))
        model = context.build_small(context.tokens.vocab_size).to(context.device).train()
        optimizer = torch.optim.Adam(model.parameters(), config.lr)
        losses = []
        with progress_bar("memorise one batch", "steps", config.steps) as bar:
            for _ in range(config.steps):
                loss = next(iter(context.losses(model, inputs_BT, targets_BT).values()))
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
        metrics.add_count("parameters", sum(p.numel() for p in model.parameters()), "parameters", "of the small net that learns")
        metrics.add_count("targets", int(is_target.sum()), "tokens", f"targets of the one batch, learned in {config.steps} steps")
        metrics.add_measurement("nats", nats, "nats/token", "mean loss on that batch after those steps")
        description = "least loss that a causal predictor can have on it: where equal prefixes go on differently it is above nought"
        metrics.add_count("floor", ceiling.min_loss, "nats/token", description)
        metrics.add_measurement(
            "excess", nats - ceiling.min_loss, "nats/token", "loss above that least: near nought if the batch was learned by heart"
        )
        metrics.add_measurement("right", num_correct, "tokens", "targets of the batch that are the most probable next token")
        max_correct, chance_correct = (
            round(ceiling.max_accuracy * ceiling.num_targets),
            ceiling.num_targets / context.tokens.vocab_size,
        )
        metrics.add_count("right.ceiling", max_correct, "tokens", "of these, what a causal predictor can reach")
        metrics.add_count("right.chance", chance_correct, "tokens", "of these, what drawing tokens at random reaches")
        lines = {"loss": losses, "ln V": [math.log(context.tokens.vocab_size)] * len(losses)}
        x = [float(step) for step in range(1, len(losses) + 1)]
        metrics.series.append(
            PlotSeries("by_step", "lines", "what is minimised while one batch is learned", "step", "nats/token", x, lines)
        )

    return probe


def _longest_windows(context: EvalContext, config: OverfitBatchConfig) -> EvalWindows:
    """The beginnings of some training documents."""
    split = context.tokens.train
    min_targets = config.num_sequences * config.seq_len
    windows = make_windows(split, min(config.seq_len, context.max_seq_len), sample_documents(split, min_targets, context.seed))
    longest = np.sort(np.argsort(-windows.lengths, kind="stable")[: config.num_sequences])
    return EvalWindows(windows.starts[longest], windows.stops[longest], windows.documents[longest])
