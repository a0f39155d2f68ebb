"""Record the metrics, plots and tables of a finished training."""

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
from provenlm.training.loggers.mfu import steady_state_rows
from provenlm.training.step import StepResult

MAX_POINTS = 400  # per plot; keeps the audit small


def record_params(
    audit: MetricRecorder, initial_model: nn.Module, final_weights: Mapping[str, Tensor], analytic: Mapping[str, int]
) -> None:
    """Record parameter counts, built and in closed form, and the fraction updated.

    `initial_model` has the weights before the first step, `analytic` is the closed-form count by part.
    """
    params = list(initial_model.parameters())
    total, trainable = sum(p.numel() for p in params), sum(p.numel() for p in params if p.requires_grad)
    audit.add_count("params.total", total, "parameters", "Parameters of the built model, tied ones counted once")
    audit.add_count("params.trainable", trainable, "parameters", "Trainable parameters of the built model")
    audit.add_count("params.analytic", analytic["total"], "parameters", "Parameters by the closed form, without building the model")
    audit.add_count("params.active", analytic["active"], "parameters", "Parameters that one token uses, by the closed form")
    description = "Fraction of parameter tensors that training changed"
    audit.add_measurement("params.updated_fraction", fraction_updated(initial_model, final_weights), "fraction", description)
    audit.add_check("params.updated_fraction", "== 1", "some parameters were never updated: look for detached paths")
    audit.add_check("params.analytic", "== params.total", "the closed form of the model's SPEC does not count the built model")
    parts = [(part, count) for part, count in analytic.items() if part not in ("total", "active")]
    rows = [(part, count, round(count / analytic["total"], 6)) for part, count in parts]
    audit.tables.append(AuditTable("params", "Parameters by part of the model", ("part", "parameters", "fraction"), rows))


def fraction_updated(initial_model: nn.Module, final_weights: Mapping[str, Tensor]) -> float:
    """Return the fraction of parameter tensors that differ in at least one element."""
    params = dict(initial_model.named_parameters())
    return sum(not torch.equal(p.detach().cpu(), final_weights[name].cpu()) for name, p in params.items()) / len(params)


def record_training_metrics(
    audit: MetricRecorder, history: StepHistory, eval_term: str, config: TrainConfig, start_steps: Sequence[int]
) -> None:
    """Record how the loss, the speed, the learning rates and the gradients developed.

    `eval_term` names the loss term without regularization; `start_steps` are the steps after which processes started.
    """
    _record_steps(audit, history)
    _record_data(audit, history, config)
    losses = [value for _, value in history.series(eval_term)]
    audit.add_measurement("loss.first", losses[0], "nats/token", f"{eval_term} of the first batch, before any update")
    description = f"{eval_term}: mean over the batches of the last 20 steps"
    audit.add_measurement("loss.last", fmean(losses[-20:]), "nats/token", description)
    if val_losses := [value for _, value in history.series(f"val.{eval_term}")]:
        description = f"Smallest validation {eval_term} during training"
        audit.add_measurement("val_loss.best", min(val_losses), "nats/token", description)
        description = f"Validation {eval_term} at the last evaluation during training"
        audit.add_measurement("val_loss.last", val_losses[-1], "nats/token", description)
    _record_speed(audit, steady_state_rows(history, start_steps))
    grad_norms = [value for _, value in history.series("grad_norm") if math.isfinite(value)] or [math.nan]
    description = "Global gradient norm before clipping, {} over the steps where it is finite"
    audit.add_measurement("grad_norm.median", median(grad_norms), "", description.format("median"))
    audit.add_measurement("grad_norm.max", max(grad_norms), "", description.format("maximum"))
    max_lr_scale = max(value for _, value in history.series("lr_scale"))
    for group_name in get_args(ParamGroupName):
        lr = config.optimizer.group_for(group_name).lr * max_lr_scale
        audit.add_count(
            f"lr.peak.{group_name}", lr, "", f"Largest learning rate that was used for the parameter group {group_name}"
        )
    audit.series.extend(build_plots(history, eval_term))


def _record_steps(audit: MetricRecorder, history: StepHistory) -> None:
    """Record how many steps were taken, skipped and rolled back."""
    rows, effective_rows = history.rows, history.effective_rows()
    description = "Steps that led to the final weights, including skipped ones"
    audit.add_count("steps", len(effective_rows), "steps", description)
    description = "Updates that were skipped because they were not finite or an outlier"
    audit.add_count("steps.skipped", sum("skip_reason" in row for row in rows), "steps", description)
    audit.add_check("steps.skipped", "== 0", "losses or gradients were not finite or outliers: lower the learning rates")
    description = "Updates that were skipped because fp16 gradients overflowed"
    audit.add_count("steps.overflowed", sum("overflow_reason" in row for row in rows), "steps", description)
    description = "Steps that a rollback to an earlier checkpoint undid"
    audit.add_count("steps.rolled_back", len(rows) - len(effective_rows), "steps", description)
    description = "Rollbacks to an earlier checkpoint"
    audit.add_count("rollbacks", sum("rollback_reason" in row for row in rows), "rollbacks", description)


def _record_data(audit: MetricRecorder, history: StepHistory, config: TrainConfig) -> None:
    """Record how much data was used, and in batches of which size."""
    num_targets, num_positions = (sum(value for _, value in history.series(name)) for name in ("num_targets", "num_positions"))
    audit.add_count("tokens", int(num_targets), "tokens", "Targets trained on, repetitions included")
    description = "Fraction of the computed positions that carry loss; padding and the first token of a document do not"
    audit.add_count("tokens.loss_fraction", num_targets / num_positions, "fraction", description)
    audit.add_count("global_batch_size", config.global_batch_size, "sequences", "Sequences per step, over all processes")
    micro_batch_size = history.rows[-1]["micro_batch_size"] or 0
    description = f"Sequences per forward pass in the last step (configured: {config.micro_batch_size or 'the whole batch'})"
    audit.add_count("micro_batch_size", micro_batch_size, "sequences", description)
    epochs = history.series("epochs")[-1][1]
    audit.add_count("epochs", epochs, "epochs", "Sequences drawn, as a multiple of the sequences of the training split")


def record_model_metrics(audit: MetricRecorder, history: StepHistory, last_step: StepResult) -> None:
    """Record the range over all steps of each metric that the model reports.

    Metrics that changed are plotted, one plot for each unit.
    """
    varying_by_unit: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, (_, unit, description) in last_step.model_metrics.items():
        points = history.series(name)
        values = [value for _, value in points]
        audit.add_measurement(f"{name}.min", min(values), unit, f"{description}; minimum over all steps")
        audit.add_measurement(f"{name}.max", max(values), unit, f"{description}; maximum over all steps")
        if min(values) < max(values):
            varying_by_unit.setdefault(unit, {})[name] = points
    for unit, lines in varying_by_unit.items():
        audit.series += _joint_plot(next(iter(lines)), "; ".join(last_step.model_metrics[name][2] for name in lines), unit, lines)


def record_eval_weights(audit: MetricRecorder, config: TrainConfig) -> None:
    """Record which weights are evaluated and published."""
    weights_text = "last" if config.ema_decay is None else f"EMA with decay {config.ema_decay:g}"
    description = "Weights that the validation loss is computed with and that model.safetensors of every checkpoint holds"
    audit.add_count("eval_weights", weights_text, "text", description)


def record_planned_steps(audit: MetricRecorder, config: TrainConfig, resolved_config: TrainConfig) -> None:
    """Record the planned number of steps.

    `resolved_config` states the duration in steps.
    """
    description = f"Planned number of steps, from `{config.duration}`"
    audit.add_count("steps.planned", resolved_config.total_steps, "steps", description)


def record_stop_reason(audit: MetricRecorder, last_step: StepResult, num_resumes: int) -> None:
    """Record why training ended, and how often it was resumed."""
    audit.add_measurement("stop_reason", last_step.stop_reason or "", "text", "Why training ended")
    audit.add_count("resumes", num_resumes, "resumes", "How often training resumed from a checkpoint after an interruption")


def _record_speed(audit: MetricRecorder, rows: Sequence[HistoryRow]) -> None:
    """Record throughput, step time and the fraction of time spent on data."""
    seconds = np.array([row["seconds"] for row in rows], np.float64)
    tokens_per_second = [float(row["num_targets"] or 0) / float(row["seconds"] or 1) for row in rows]
    data_seconds = sum(float(row["data_seconds"] or 0) for row in rows)
    steps_text = "over applied steps after each process's warm-up"
    description = f"Training targets per second of wall time, median {steps_text}"
    audit.add_measurement("tokens_per_second", median(tokens_per_second), "tokens/s", description)
    audit.add_measurement("step_seconds.median", float(np.median(seconds)), "s", f"Wall time per step, median {steps_text}")
    description = f"Wall time per step, 95th percentile {steps_text}"
    audit.add_measurement("step_seconds.p95", float(np.quantile(seconds, 0.95)), "s", description)
    description = f"Fraction of the step time spent on drawing batches, {steps_text}"
    audit.add_measurement("data_loading_fraction", data_seconds / float(seconds.sum()), "fraction", description)


def build_plots(history: StepHistory, eval_term: str) -> list[PlotSeries]:
    """Plot the losses, the throughput and the gradient norms by step."""
    train_losses = history.series(eval_term)
    rows = history.effective_rows()
    speeds = [(int(row["step"] or 0), float(row["num_targets"] or 0) / float(row["seconds"] or 1)) for row in rows]
    plots = [
        _line_plot("loss_by_step", "Training loss of each step's batch", "nats/token", ("training",), downsample(train_losses)),
        _line_plot("throughput", "Training targets per second, by step", "tokens/s", ("tokens/s",), downsample(speeds)),
    ]
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("grad_norm."))
    norms = {name.removeprefix("grad_norm."): history.series(name) for name in names}
    plots += _joint_plot("grad_norm", "Gradient norm before clipping, by parameter group", "", norms)
    if loss_points := train_vs_val_points(history, eval_term):
        description = "Training loss (mean since the previous evaluation) and validation loss"
        plots.insert(0, _line_plot("loss", description, "nats/token", ("training", "validation"), loss_points))
    return plots


def train_vs_val_points(history: StepHistory, eval_term: str) -> list[tuple[float, float, float]]:
    """Return (step, mean training loss, validation loss) of every evaluation.

    The training loss is the mean since the previous evaluation.
    """
    train_losses, val_losses = history.series(eval_term), history.series(f"val.{eval_term}")
    interval_starts = [0, *(step for step, _ in val_losses)]
    means = [fmean(value for step, value in train_losses if start < step <= end) for start, end in pairwise(interval_starts)]
    return [(step, mean, value) for (step, value), mean in zip(val_losses, means, strict=True)]


def _line_plot(name: str, description: str, unit: str, names: Sequence[str], points: Sequence[tuple[float, ...]]) -> PlotSeries:
    """Plot lines over steps; each point is (step, value of each line)."""
    x, *lines = zip(*points, strict=True)
    return PlotSeries(name, "line", description, "step", unit, x, dict(zip(names, lines, strict=True)))


def _joint_plot(name: str, description: str, unit: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> list[PlotSeries]:
    """Plot lines over the steps at which all of them are finite.

    None without such steps.
    """
    by_step = [dict(line) for line in lines.values()]
    first_line = dict(next(iter(lines.values()), ()))
    common_steps = [step for step in first_line if all(math.isfinite(line.get(step, math.nan)) for line in by_step)]
    if not common_steps:
        return []
    downsampled = [downsample([(step, line[step]) for step in common_steps]) for line in by_step]
    points = [(column[0][0], *(value for _, value in column)) for column in zip(*downsampled, strict=True)]
    return [_line_plot(name, description, unit, list(lines), points)]


def downsample(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Reduce a line to at most `MAX_POINTS` points, each the mean of its neighbours."""
    width = -(-len(points) // MAX_POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(group[-1][0], fmean(value for _, value in group)) for group in groups]
