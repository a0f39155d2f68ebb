"""Record the regularization and stability settings of a training."""

from typing import get_args

from torch import nn

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.models.common.objective import ParamGroupName
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import EarlyStoppingConfig, ReduceLROnPlateauConfig

OFF = "off"
COLUMNS = ("setting", "value", "effect in this run")


def record_regularization(
    audit: MetricRecorder, model: nn.Module, config: TrainConfig, history: StepHistory, stop_reason: str
) -> None:
    """Record a table of the settings and their effect in this run.

    Values come from the built model and the config, effects from the steps.
    """
    rows, effective_rows = history.rows, history.effective_rows()
    num_evals = sum(any(name.startswith("val.") for name in row) for row in effective_rows)
    max_norm, num_steps = config.optimizer.max_grad_norm, len(effective_rows)
    min_lr_scale = min((scale for _, scale in history.series("lr_scale")), default=1.0)
    min_micro_batch = int(min((size for _, size in history.series("micro_batch_size")), default=0))
    num_skipped, num_rollbacks = (sum(name in row for row in rows) for name in ("skip_reason", "rollback_reason"))
    num_saves = num_steps // config.checkpoints.save_interval
    spike_guard = config.spike_guard
    threshold = f"above {spike_guard.threshold_std:g} robust deviations" if spike_guard else "stop at the first NaN or Inf"
    table_rows = [
        ("dropout", *_dropout(model)),
        ("weight decay", _weight_decay(config), "weights shrink by lr · weight_decay in each step"),
        ("label smoothing", _format(config.label_smoothing), "in the training loss only"),
        ("gradient clipping", _format(max_norm), f"{_num_clipped(history, max_norm)} of {num_steps} steps clipped"),
        ("EMA of the weights", _format(config.ema_decay), "evaluated and published" if config.ema_decay else ""),
        ("validation loss", f"every {config.eval.interval} steps" if config.eval else OFF, f"{num_evals} evaluations"),
        ("LR reduction on plateau", _patience(config.reduce_lr_on_plateau), f"smallest learning-rate factor {min_lr_scale:g}"),
        ("early stopping", _patience(config.early_stopping), f"stop reason: {stop_reason}"),
        ("spike guard", threshold, f"{num_skipped} steps skipped, {num_rollbacks} rollbacks"),
        ("micro-batch size", str(config.micro_batch_size or "whole batch"), f"smallest {min_micro_batch}"),
        ("activation checkpointing", _format(config.activation_checkpointing), ""),
        ("checkpoints", f"every {config.checkpoints.save_interval} steps", f"{num_saves} saved"),
    ]
    description = "Regularization and stability settings, and their effect in this run"
    audit.tables.append(AuditTable("regularization", description, COLUMNS, table_rows))


def _dropout(model: nn.Module) -> tuple[str, str]:
    """Return the largest dropout of the built model's modules, and how many have one."""
    rates = [float(rate) for module in model.modules() if isinstance(rate := vars(module).get("dropout"), int | float)]
    return _format(max(rates, default=0.0)), f"in {sum(rate > 0 for rate in rates)} modules of the model"


def _weight_decay(config: TrainConfig) -> str:
    """Return the weight decay of each parameter group."""
    return ", ".join(f"{name} {config.optimizer.group_for(name).weight_decay:g}" for name in get_args(ParamGroupName))


def _format(value: float | None) -> str:
    """Format a number; None and 0 are off."""
    return f"{value:g}" if value else OFF


def _patience(config: ReduceLROnPlateauConfig | EarlyStoppingConfig | None) -> str:
    """Return after how many evaluations without an improvement a callback acts."""
    return OFF if config is None else f"after {config.patience} evaluations without an improvement"


def _num_clipped(history: StepHistory, max_norm: float | None) -> int:
    """Count the steps whose gradient norm was above the limit."""
    return sum(norm > max_norm for _, norm in history.series("grad_norm")) if max_norm else 0
