"""A small net of the subject's kind and one real batch in, figures on whether it can learn that batch by heart out.

A net that cannot has a broken path, a broken loss or targets that are not the tokens that follow.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import Recorder, Series
from provenlm.core.progress import progress
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.probes.heldout_loss import attainable
from provenlm.evaluation.token_loss import IGNORE, Windows, batch, some_documents, windows


@dataclass(frozen=True)
class Settings:
    """The `memorise` section of validate, typed: one batch of `rows` rows of `tokens` targets, `steps` of Adam at `rate`."""

    rows: int
    tokens: int
    steps: int
    rate: float

    def __post_init__(self) -> None:
        if min(self.rows, self.tokens, self.steps) < 1 or self.rate <= 0:
            raise ValueError("rows, tokens and steps must be at least 1, and rate above 0")


def memorised(settings: Settings) -> Probe:
    """Train a new small net on one batch of the training split and measure its loss there, beside the least that can be had."""

    def probe(subject: Subject, figures: Recorder) -> None:
        rows = _rows(subject, settings)
        split = subject.tokens.train
        inputs_BT, targets_BT = batch(subject, split, rows, np.arange(len(rows.starts)))
        torch.manual_seed(rng.seed_of(subject.seed, "memorised"))
        model = subject.small(subject.tokens.vocabulary).to(subject.device).train()
        optimizer = torch.optim.Adam(model.parameters(), settings.rate)
        losses = []
        with progress("memorise one batch", "steps", settings.steps) as bar:
            for _ in range(settings.steps):
                loss = next(iter(subject.losses(model, inputs_BT, targets_BT).values()))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.item())
                bar.advance()
        with torch.inference_mode():
            logits_BTV = subject.logits(model.eval(), inputs_BT).float()
        nats = float(F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE))
        asked = targets_BT != IGNORE
        right = int((logits_BTV.argmax(-1) == targets_BT)[asked].sum())
        best = attainable(split, rows)
        figures.counted("parameters", sum(p.numel() for p in model.parameters()), "parameters", "of the small net that learns")
        figures.counted("targets", int(asked.sum()), "tokens", f"targets of the one batch, learned in {settings.steps} steps")
        figures.measured("nats", nats, "nats/token", "mean loss on that batch after those steps")
        meaning = "least loss that a causal predictor can have on it: where equal prefixes go on differently it is above nought"
        figures.counted("floor", best.nats, "nats/token", meaning)
        figures.measured(
            "excess", nats - best.nats, "nats/token", "loss above that least: near nought if the batch was learned by heart"
        )
        figures.measured("right", right, "tokens", "targets of the batch that are the most probable next token")
        most, blind = round(best.accuracy * best.targets), best.targets / subject.tokens.vocabulary
        figures.counted("right.ceiling", most, "tokens", "of these, what a causal predictor can reach")
        figures.counted("right.chance", blind, "tokens", "of these, what drawing tokens at random reaches")
        lines = {"loss": losses, "ln V": [math.log(subject.tokens.vocabulary)] * len(losses)}
        x = [float(step) for step in range(1, len(losses) + 1)]
        figures.series.append(
            Series("by_step", "lines", "what is minimised while one batch is learned", "step", "nats/token", x, lines)
        )

    return probe


def _rows(subject: Subject, settings: Settings) -> Windows:
    """The beginnings of some training documents."""
    split = subject.tokens.train
    wanted = settings.rows * settings.tokens
    found = windows(split, min(settings.tokens, subject.length), some_documents(split, wanted, subject.seed))
    first = np.sort(np.argsort(-found.lengths, kind="stable")[: settings.rows])
    return Windows(found.starts[first], found.stops[first], found.documents[first])
