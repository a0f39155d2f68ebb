"""A finished training in, what was set against learning too much, too little or not at all, and what came of each, out."""

from typing import get_args

from torch import nn

from provenlm.core.audit import Recorder, Table
from provenlm.models.common.objective import Role
from provenlm.training.callbacks.history import History
from provenlm.training.config import Settings
from provenlm.training.config_sections import EarlyStop, Plateau

OFF = "off"
COLUMNS = ("safeguard", "set to", "in this run")


def safeguards(audit: Recorder, model: nn.Module, settings: Settings, history: History, stopped: str) -> None:
    """A table with a row a safeguard, from the built net, the settings that the loop had and the steps that it made."""
    rows, kept = history.rows, history.lasting()
    held, clip = sum(any(name.startswith("held_out.") for name in row) for row in kept), settings.optimizer.clip
    lowest = min((share for _, share in history.column("share")), default=1.0)
    said = [
        ("dropout", *_dropout(model)),
        ("weight decay", _by_role(settings), "shrinks by rate · decay a step"),
        ("label smoothing", _or_off(settings.label_smoothing), "training loss alone"),
        ("gradient clipping", _or_off(clip), f"{_clipped(history, clip)} of {len(kept)} steps clipped"),
        ("moving average of the weights", _or_off(settings.ema), "published" if settings.ema else ""),
        ("held-out loss", f"every {settings.held_out.every} steps" if settings.held_out else OFF, f"measured {held} times"),
        ("lower rates on a plateau", _patience(settings.plateau), f"lowest share of the rates {lowest:g}"),
        ("early stopping", _patience(settings.early_stop), f"ended: {stopped}"),
        (
            "steps that stand out",
            f"skipped above {settings.stability.limit:g} robust deviations"
            if settings.stability
            else "the first not finite one stops",
            f"{sum('skipped' in row for row in rows)} skipped, went back {sum('back' in row for row in rows)} times",
        ),
        ("rows at a time", str(settings.micro_batch), f"{_least(history)} at the least"),
        ("recomputing", _or_off(settings.recompute), "blocks that keep only their input" if settings.recompute else ""),
        ("checkpoints", f"every {settings.checkpoints.every} steps", f"{len(kept) // settings.checkpoints.every} passed"),
    ]
    audit.tables.append(Table("safeguards", "what was set for a sound training, and what came of it", COLUMNS, said))


def _dropout(model: nn.Module) -> tuple[str, str]:
    """The largest that a module of the net holds, by name as it was built."""
    found = [float(value) for module in model.modules() if isinstance(value := vars(module).get("dropout"), int | float)]
    return _or_off(max(found, default=0.0)), f"held by {sum(value > 0 for value in found)} modules of the built net"


def _by_role(settings: Settings) -> str:
    return ", ".join(f"{role} {settings.optimizer.of(role).weight_decay:g}" for role in get_args(Role))


def _or_off(value: float | None) -> str:
    return f"{value:g}" if value else OFF


def _patience(asked: Plateau | EarlyStop | None) -> str:
    return OFF if asked is None else f"after {asked.measurements} measurements without a better one"


def _clipped(history: History, clip: float | None) -> int:
    return sum(norm > clip for _, norm in history.column("grad_norm")) if clip else 0


def _least(history: History) -> int:
    return int(min((rows for _, rows in history.column("micro_batch")), default=0))
