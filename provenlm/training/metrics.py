"""A finished training in, its figures, curves and tables out."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from provenlm.core.audit import Recorder, Series, Table
from provenlm.models.common.objective import Role
from provenlm.training.callbacks.history import History, Row
from provenlm.training.config import Settings
from provenlm.training.mfu import real
from provenlm.training.step import Step

POINTS = 400  # of a curve, so that an audit stays small


def parameters(audit: Recorder, begun: nn.Module, ended: Mapping[str, Tensor], formula: Mapping[str, int]) -> None:
    """What the net has, by counting `begun`, the net before the first step, and by the closed form, and what is else in `ended`."""
    own = list(begun.parameters())
    audit.counted("parameters.total", sum(p.numel() for p in own), "parameters", "counted on the built net, shared ones once")
    audit.counted("parameters.trainable", sum(p.numel() for p in own if p.requires_grad), "parameters", "of these, trained")
    audit.counted("parameters.formula", formula["total"], "parameters", "the same by the closed form, without building")
    audit.counted("parameters.active", formula["active"], "parameters", "that one token meets, by the closed form")
    audit.measured("parameters.moved", moved(begun, ended), "share", "share of tensors that training changed")
    parts = [(part, count) for part, count in formula.items() if part not in ("total", "active")]
    rows = [(part, count, round(count / formula["total"], 6)) for part, count in parts]
    audit.tables.append(Table("parameters", "Where the parameters are", ("part", "parameters", "share"), rows))


def moved(begun: nn.Module, ended: Mapping[str, Tensor]) -> float:
    """Share of the net's parameter tensors that differ from those in `ended` in at least one element."""
    named = dict(begun.named_parameters())
    return sum(not torch.equal(p.detach().cpu(), ended[name].cpu()) for name, p in named.items()) / len(named)


def course(audit: Recorder, history: History, judge: str, settings: Settings, begun: Sequence[int]) -> None:
    """How the loss went, how fast, and how the gradients behaved.

    `judge` names the term that is the loss without regularisers; `begun` are the steps after which processes began.
    """
    rows, kept = history.rows, history.lasting()
    losses = [value for _, value in history.column(judge)]
    audit.counted("steps", len(kept), "steps", "that led to these weights, skipped ones too")
    audit.counted(
        "steps.skipped", sum("skipped" in row for row in rows), "steps", "not applied: not finite, or far above what was usual"
    )
    audit.counted("steps.overflowed", sum("overflow" in row for row in rows), "steps", "not applied: beyond the range of fp16")
    audit.counted("steps.undone", len(rows) - len(kept), "steps", "given up by going back to a checkpoint")
    audit.counted("went_back", sum("back" in row for row in rows), "times", "that the run went back to a checkpoint")
    targets, positions = (sum(value for _, value in history.column(name)) for name in ("targets", "positions"))
    audit.counted("tokens", int(targets), "tokens", "targets trained on, repetitions counted")
    audit.counted(
        "tokens.share", targets / positions, "share", "of the positions that were computed; padding and first tokens carry no loss"
    )
    audit.counted("batch", settings.batch, "rows", "a step, however few of them memory holds at a time")
    audit.counted("micro_batch", rows[-1]["micro_batch"] or 0, "rows", f"at a time at the end; asked for: {settings.micro_batch}")
    audit.counted("epochs", history.column("epochs")[-1][1], "epochs", "rows drawn over rows of the training split")
    audit.measured("loss.first", losses[0], "nats/token", f"{judge} of the first step's batch, before any update")
    audit.measured("loss.last", fmean(losses[-20:]), "nats/token", f"{judge}, mean of the last (up to 20) steps' batches")
    if held := [value for _, value in history.column(f"held_out.{judge}")]:
        audit.measured("held_out.best", min(held), "nats/token", f"{judge} on held-out rows, smallest during training")
        audit.measured("held_out.last", held[-1], "nats/token", f"{judge} on held-out rows after the last step")
    _speed(audit, real(history, begun))
    norms = [value for _, value in history.column("grad_norm") if math.isfinite(value)] or [math.nan]
    audit.measured(
        "gradient_norm.median", median(norms), "", "global gradient norm before clipping, median over steps where it is finite"
    )
    audit.measured("gradient_norm.max", max(norms), "", "the largest")
    peak = max(value for _, value in history.column("share"))
    for role in get_args(Role):
        rate = settings.optimizer.of(role).rate * peak
        audit.counted(f"rate_peak.{role}", rate, "", f"largest learning rate that was used, {role} parameters")
    audit.series.extend(curves(history, judge))


def inside(audit: Recorder, history: History, last: Step) -> None:
    """What the nets told of every step: the least and the most of it as figures, and curves of what ever changed, by unit."""
    drawn: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, (_, unit, meaning) in last.inside.items():
        points = history.column(name)
        values = [value for _, value in points]
        audit.measured(f"{name}.least", min(values), unit, f"{meaning}; least of all steps")
        audit.measured(f"{name}.most", max(values), unit, f"{meaning}; most of all steps")
        if min(values) < max(values):
            drawn.setdefault(unit, {})[name] = points
    for unit, lines in drawn.items():
        audit.series += _together(next(iter(lines)), "; ".join(last.inside[name][2] for name in lines), unit, lines)


def weights(audit: Recorder, settings: Settings) -> None:
    """Which weights were judged during training and are published."""
    which = "those of the last update" if settings.ema is None else f"their moving average, decay {settings.ema:g}"
    audit.counted("weights", which, "text", "held-out loss is of these, and these are in model.safetensors of every checkpoint")


def planned(audit: Recorder, asked: Settings, settings: Settings) -> None:
    """How long training was to be, in `settings` by steps."""
    audit.counted("steps.planned", settings.total_steps, "steps", f"that `{asked.duration}` came to before training began")


def ending(audit: Recorder, last: Step, resumed: int) -> None:
    """Why training ended, and how often it was taken up again."""
    audit.measured("stopped", last.stop or "", "text", "why training ended")
    audit.counted("resumed", resumed, "times", "that training went on from a checkpoint, on the way to these weights")


def _speed(audit: Recorder, rows: Sequence[Row]) -> None:
    seconds = np.array([row["seconds"] for row in rows], np.float64)
    rates = [float(row["targets"] or 0) / float(row["seconds"] or 1) for row in rows]
    waits = sum(float(row["data_seconds"] or 0) for row in rows)
    without = "updates that were applied, the first few of each process left out"
    audit.measured("tokens_per_second", median(rates), "tokens/s", f"targets over wall time, median over {without}")
    audit.measured("step_seconds.median", float(np.median(seconds)), "s", f"wall time a step, median over {without}")
    audit.measured("step_seconds.p95", float(np.quantile(seconds, 0.95)), "s", f"wall time a step, 95th percentile over {without}")
    audit.measured("data_share", waits / float(seconds.sum()), "share", "share of the steps' time spent on drawing batches")


def curves(history: History, judge: str) -> list[Series]:
    """The loss by step, the loss beside the held-out loss where that was measured, and the throughput."""
    trained = history.column(judge)
    speeds = [(int(row["step"] or 0), float(row["targets"] or 0) / float(row["seconds"] or 1)) for row in history.lasting()]
    made = [
        _lines("loss_by_step", "Training loss of each step's batch", "nats/token", ("training",), thinned(trained)),
        _lines("throughput", "Targets a second, by step", "tokens/s", ("tokens/s",), thinned(speeds)),
    ]
    roles = dict.fromkeys(name for row in history.lasting() for name in row if name.startswith("grad_norm."))
    norms = {name.removeprefix("grad_norm."): history.column(name) for name in roles}
    made += _together("gradient_norm", "Gradient norm before clipping, by part of the net", "", norms)
    if both := beside(history, judge):
        meaning = "Training loss (mean since the point before) and held-out loss"
        made.insert(0, _lines("loss", meaning, "nats/token", ("training", "held-out"), both))
    return made


def beside(history: History, judge: str) -> list[tuple[float, float, float]]:
    """(step, mean training loss since the point before, held-out loss) wherever the held-out loss was measured."""
    trained, held = history.column(judge), history.column(f"held_out.{judge}")
    begins = [0, *(step for step, _ in held)]
    means = [fmean(value for step, value in trained if begin < step <= end) for begin, end in pairwise(begins)]
    return [(step, mean, value) for (step, value), mean in zip(held, means, strict=True)]


def _lines(name: str, meaning: str, unit: str, names: Sequence[str], points: Sequence[tuple[float, ...]]) -> Series:
    x, *lines = zip(*points, strict=True)
    return Series(name, "lines", meaning, "step", unit, x, dict(zip(names, lines, strict=True)))


def _together(name: str, meaning: str, unit: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> list[Series]:
    """Lines over the steps at which all of them are there and finite; none where there is no such step."""
    by_step = [dict(line) for line in lines.values()]
    shared = [n for n in dict(next(iter(lines.values()), ())) if all(math.isfinite(line.get(n, math.nan)) for line in by_step)]
    if not shared:
        return []
    thin = [thinned([(step, line[step]) for step in shared]) for line in by_step]
    points = [(column[0][0], *(value for _, value in column)) for column in zip(*thin, strict=True)]
    return [_lines(name, meaning, unit, list(lines), points)]


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points: where there are more, each is the mean of as many neighbours."""
    width = -(-len(points) // POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(group[-1][0], fmean(value for _, value in group)) for group in groups]
