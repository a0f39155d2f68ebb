"""A finished training in, what was set against learning too much, too little or not at all, and what came of each, out."""

from typing import get_args

from torch import nn

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.models.common.objective import ParamGroupName
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import EarlyStoppingConfig, ReduceLROnPlateauConfig

OFF = "off"
COLUMNS = ("safeguard", "set to", "in this run")


def safeguards(audit: MetricRecorder, model: nn.Module, settings: TrainConfig, history: StepHistory, stopped: str) -> None:
    """A table with a row a safeguard, from the built net, the settings that the loop had and the steps that it made."""
    rows, kept = history.rows, history.effective_rows()
    held, clip = sum(any(name.startswith("held_out.") for name in row) for row in kept), settings.optimizer.max_grad_norm
    lowest = min((share for _, share in history.series("share")), default=1.0)
    said = [
        ("dropout", *_dropout(model)),
        ("weight decay", _by_role(settings), "shrinks by rate · decay a step"),
        ("label smoothing", _or_off(settings.label_smoothing), "training loss alone"),
        ("gradient clipping", _or_off(clip), f"{_clipped(history, clip)} of {len(kept)} steps clipped"),
        ("moving average of the weights", _or_off(settings.ema_decay), "published" if settings.ema_decay else ""),
        ("held-out loss", f"every {settings.eval.interval} steps" if settings.eval else OFF, f"measured {held} times"),
        ("lower rates on a plateau", _patience(settings.reduce_lr_on_plateau), f"lowest share of the rates {lowest:g}"),
        ("early stopping", _patience(settings.early_stopping), f"ended: {stopped}"),
        (
            "steps that stand out",
            f"skipped above {settings.spike_guard.threshold_std:g} robust deviations"
            if settings.spike_guard
            else "the first not finite one stops",
            f"{sum('skipped' in row for row in rows)} skipped, went back {sum('back' in row for row in rows)} times",
        ),
        ("rows at a time", str(settings.micro_batch_size), f"{_least(history)} at the least"),
        (
            "recomputing",
            _or_off(settings.activation_checkpointing),
            "blocks that keep only their input" if settings.activation_checkpointing else "",
        ),
        (
            "checkpoints",
            f"every {settings.checkpoints.save_interval} steps",
            f"{len(kept) // settings.checkpoints.save_interval} passed",
        ),
    ]
    audit.tables.append(AuditTable("safeguards", "what was set for a sound training, and what came of it", COLUMNS, said))


def _dropout(model: nn.Module) -> tuple[str, str]:
    """The largest that a module of the net holds, by name as it was built."""
    found = [float(value) for module in model.modules() if isinstance(value := vars(module).get("dropout"), int | float)]
    return _or_off(max(found, default=0.0)), f"held by {sum(value > 0 for value in found)} modules of the built net"


def _by_role(settings: TrainConfig) -> str:
    return ", ".join(f"{role} {settings.optimizer.group_for(role).weight_decay:g}" for role in get_args(ParamGroupName))


def _or_off(value: float | None) -> str:
    return f"{value:g}" if value else OFF


def _patience(asked: ReduceLROnPlateauConfig | EarlyStoppingConfig | None) -> str:
    return OFF if asked is None else f"after {asked.patience} measurements without a better one"


def _clipped(history: StepHistory, clip: float | None) -> int:
    return sum(norm > clip for _, norm in history.series("grad_norm")) if clip else 0


def _least(history: StepHistory) -> int:
    return int(min((rows for _, rows in history.series("micro_batch")), default=0))
