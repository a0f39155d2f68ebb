"""A finished training in, its figures, curves and tables out."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.models.common.objective import ParamGroupName
from provenlm.training.callbacks.history import HistoryRow, StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.mfu import steady_state_rows
from provenlm.training.step import StepResult

MAX_POINTS = 400  # of a curve, so that an audit stays small


def record_params(
    audit: MetricRecorder, initial_model: nn.Module, final_weights: Mapping[str, Tensor], analytic: Mapping[str, int]
) -> None:
    """What the net has, by counting `begun`, the net before the first step, and by the closed form, and what is else in `ended`."""
    params = list(initial_model.parameters())
    audit.add_count("parameters.total", sum(p.numel() for p in params), "parameters", "counted on the built net, shared ones once")
    audit.add_count("parameters.trainable", sum(p.numel() for p in params if p.requires_grad), "parameters", "of these, trained")
    audit.add_count("parameters.formula", analytic["total"], "parameters", "the same by the closed form, without building")
    audit.add_count("parameters.active", analytic["active"], "parameters", "that one token meets, by the closed form")
    audit.add_measurement(
        "parameters.moved", fraction_updated(initial_model, final_weights), "share", "share of tensors that training changed"
    )
    parts = [(part, count) for part, count in analytic.items() if part not in ("total", "active")]
    rows = [(part, count, round(count / analytic["total"], 6)) for part, count in parts]
    audit.tables.append(AuditTable("parameters", "Where the parameters are", ("part", "parameters", "share"), rows))


def fraction_updated(initial_model: nn.Module, final_weights: Mapping[str, Tensor]) -> float:
    """Share of the net's parameter tensors that differ from those in `ended` in at least one element."""
    params = dict(initial_model.named_parameters())
    return sum(not torch.equal(p.detach().cpu(), final_weights[name].cpu()) for name, p in params.items()) / len(params)


def record_training_metrics(
    audit: MetricRecorder, history: StepHistory, eval_term: str, config: TrainConfig, start_steps: Sequence[int]
) -> None:
    """How the loss went, how fast, and how the gradients behaved.

    `judge` names the term that is the loss without regularisers; `begun` are the steps after which processes began.
    """
    rows, effective_rows = history.rows, history.effective_rows()
    losses = [value for _, value in history.series(eval_term)]
    audit.add_count("steps", len(effective_rows), "steps", "that led to these weights, skipped ones too")
    audit.add_count(
        "steps.skipped", sum("skipped" in row for row in rows), "steps", "not applied: not finite, or far above what was usual"
    )
    audit.add_count("steps.overflowed", sum("overflow" in row for row in rows), "steps", "not applied: beyond the range of fp16")
    audit.add_count("steps.undone", len(rows) - len(effective_rows), "steps", "given up by going back to a checkpoint")
    audit.add_count("went_back", sum("back" in row for row in rows), "times", "that the run went back to a checkpoint")
    num_targets, num_positions = (sum(value for _, value in history.series(name)) for name in ("targets", "positions"))
    audit.add_count("tokens", int(num_targets), "tokens", "targets trained on, repetitions counted")
    audit.add_count(
        "tokens.share",
        num_targets / num_positions,
        "share",
        "of the positions that were computed; padding and first tokens carry no loss",
    )
    audit.add_count("batch", config.global_batch_size, "rows", "a step, however few of them memory holds at a time")
    audit.add_count(
        "micro_batch", rows[-1]["micro_batch"] or 0, "rows", f"at a time at the end; asked for: {config.micro_batch_size}"
    )
    audit.add_count("epochs", history.series("epochs")[-1][1], "epochs", "rows drawn over rows of the training split")
    audit.add_measurement("loss.first", losses[0], "nats/token", f"{eval_term} of the first step's batch, before any update")
    audit.add_measurement(
        "loss.last", fmean(losses[-20:]), "nats/token", f"{eval_term}, mean of the last (up to 20) steps' batches"
    )
    if val_losses := [value for _, value in history.series(f"held_out.{eval_term}")]:
        audit.add_measurement(
            "held_out.best", min(val_losses), "nats/token", f"{eval_term} on held-out rows, smallest during training"
        )
        audit.add_measurement("held_out.last", val_losses[-1], "nats/token", f"{eval_term} on held-out rows after the last step")
    _record_speed(audit, steady_state_rows(history, start_steps))
    grad_norms = [value for _, value in history.series("grad_norm") if math.isfinite(value)] or [math.nan]
    audit.add_measurement(
        "gradient_norm.median", median(grad_norms), "", "global gradient norm before clipping, median over steps where it is finite"
    )
    audit.add_measurement("gradient_norm.max", max(grad_norms), "", "the largest")
    max_lr_scale = max(value for _, value in history.series("share"))
    for role in get_args(ParamGroupName):
        lr = config.optimizer.group_for(role).lr * max_lr_scale
        audit.add_count(f"rate_peak.{role}", lr, "", f"largest learning rate that was used, {role} parameters")
    audit.series.extend(build_plots(history, eval_term))


def record_model_metrics(audit: MetricRecorder, history: StepHistory, last_step: StepResult) -> None:
    """What the nets told of every step: the least and the most of it as figures, and curves of what ever changed, by unit."""
    varying_by_unit: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, (_, unit, description) in last_step.model_metrics.items():
        points = history.series(name)
        values = [value for _, value in points]
        audit.add_measurement(f"{name}.least", min(values), unit, f"{description}; least of all steps")
        audit.add_measurement(f"{name}.most", max(values), unit, f"{description}; most of all steps")
        if min(values) < max(values):
            varying_by_unit.setdefault(unit, {})[name] = points
    for unit, lines in varying_by_unit.items():
        audit.series += _joint_plot(next(iter(lines)), "; ".join(last_step.model_metrics[name][2] for name in lines), unit, lines)


def record_eval_weights(audit: MetricRecorder, config: TrainConfig) -> None:
    """Which weights were judged during training and are published."""
    weights_text = "those of the last update" if config.ema_decay is None else f"their moving average, decay {config.ema_decay:g}"
    audit.add_count(
        "weights", weights_text, "text", "held-out loss is of these, and these are in model.safetensors of every checkpoint"
    )


def record_planned_steps(audit: MetricRecorder, config: TrainConfig, resolved_config: TrainConfig) -> None:
    """How long training was to be, in `settings` by steps."""
    audit.add_count(
        "steps.planned", resolved_config.total_steps, "steps", f"that `{config.duration}` came to before training began"
    )


def record_stop_reason(audit: MetricRecorder, last_step: StepResult, num_resumes: int) -> None:
    """Why training ended, and how often it was taken up again."""
    audit.add_measurement("stopped", last_step.stop_reason or "", "text", "why training ended")
    audit.add_count("resumed", num_resumes, "times", "that training went on from a checkpoint, on the way to these weights")


def _record_speed(audit: MetricRecorder, rows: Sequence[HistoryRow]) -> None:
    seconds = np.array([row["seconds"] for row in rows], np.float64)
    tokens_per_second = [float(row["targets"] or 0) / float(row["seconds"] or 1) for row in rows]
    data_seconds = sum(float(row["data_seconds"] or 0) for row in rows)
    steps_text = "updates that were applied, the first few of each process left out"
    audit.add_measurement(
        "tokens_per_second", median(tokens_per_second), "tokens/s", f"targets over wall time, median over {steps_text}"
    )
    audit.add_measurement("step_seconds.median", float(np.median(seconds)), "s", f"wall time a step, median over {steps_text}")
    audit.add_measurement(
        "step_seconds.p95", float(np.quantile(seconds, 0.95)), "s", f"wall time a step, 95th percentile over {steps_text}"
    )
    audit.add_measurement(
        "data_share", data_seconds / float(seconds.sum()), "share", "share of the steps' time spent on drawing batches"
    )


def build_plots(history: StepHistory, eval_term: str) -> list[PlotSeries]:
    """The loss by step, the loss beside the held-out loss where that was measured, and the throughput."""
    train_losses = history.series(eval_term)
    speeds = [(int(row["step"] or 0), float(row["targets"] or 0) / float(row["seconds"] or 1)) for row in history.effective_rows()]
    plots = [
        _line_plot("loss_by_step", "Training loss of each step's batch", "nats/token", ("training",), downsample(train_losses)),
        _line_plot("throughput", "Targets a second, by step", "tokens/s", ("tokens/s",), downsample(speeds)),
    ]
    roles = dict.fromkeys(name for row in history.effective_rows() for name in row if name.startswith("grad_norm."))
    norms = {name.removeprefix("grad_norm."): history.series(name) for name in roles}
    plots += _joint_plot("gradient_norm", "Gradient norm before clipping, by part of the net", "", norms)
    if loss_points := train_vs_val_points(history, eval_term):
        description = "Training loss (mean since the point before) and held-out loss"
        plots.insert(0, _line_plot("loss", description, "nats/token", ("training", "held-out"), loss_points))
    return plots


def train_vs_val_points(history: StepHistory, eval_term: str) -> list[tuple[float, float, float]]:
    """(step, mean training loss since the point before, held-out loss) wherever the held-out loss was measured."""
    train_losses, val_losses = history.series(eval_term), history.series(f"held_out.{eval_term}")
    interval_starts = [0, *(step for step, _ in val_losses)]
    means = [fmean(value for step, value in train_losses if start < step <= end) for start, end in pairwise(interval_starts)]
    return [(step, mean, value) for (step, value), mean in zip(val_losses, means, strict=True)]


def _line_plot(name: str, description: str, unit: str, names: Sequence[str], points: Sequence[tuple[float, ...]]) -> PlotSeries:
    x, *lines = zip(*points, strict=True)
    return PlotSeries(name, "lines", description, "step", unit, x, dict(zip(names, lines, strict=True)))


def _joint_plot(name: str, description: str, unit: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> list[PlotSeries]:
    """Lines over the steps at which all of them are there and finite; none where there is no such step."""
    by_step = [dict(line) for line in lines.values()]
    common_steps = [
        n for n in dict(next(iter(lines.values()), ())) if all(math.isfinite(line.get(n, math.nan)) for line in by_step)
    ]
    if not common_steps:
        return []
    downsampled = [downsample([(step, line[step]) for step in common_steps]) for line in by_step]
    points = [(column[0][0], *(value for _, value in column)) for column in zip(*downsampled, strict=True)]
    return [_line_plot(name, description, unit, list(lines), points)]


def downsample(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points: where there are more, each is the mean of as many neighbours."""
    width = -(-len(points) // MAX_POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(group[-1][0], fmean(value for _, value in group)) for group in groups]
