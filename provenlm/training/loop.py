"""The one training loop: a net, its objectives and batches in, a frozen Step out for every update.

The loop owns no disk, no bar and no schedule of checkpoints: whoever asks for the next step decides about those.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from provenlm.models.common.objective import Batch, Objective, Told
from provenlm.training import auto_batch_size, rng_state, seq_len_schedule
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config import Settings
from provenlm.training.dataloader import Batches
from provenlm.training.distributed.process_group import ALONE, Crew
from provenlm.training.optim import factory as optim
from provenlm.training.optim import gradients
from provenlm.training.state import State
from provenlm.training.step import GoBack, Monitor, Slow, Step, Stop, Update

Recall = Callable[[], Checkpoint | None]  # gives the last good checkpoint


def fit(
    model: nn.Module,
    objectives: Sequence[Objective],
    batches: Batches,
    monitors: Sequence[Monitor],
    settings: Settings,
    resume: Checkpoint | None,
    recall: Recall,
    crew: Crew = ALONE,
) -> Iterator[Step]:
    """Train `model` where it lies (its device) and yield after every step; the last has a reason in `stop`.

    Each step draws one batch and every objective descends on it in turn, each process of `crew` on its share. With `resume` the run
    continues after the step that the checkpoint was taken at and gives the bits that it would have given had it never stopped. A
    monitor may ask to go back: then the run continues from what `recall` gives, with data that it has not seen.
    """
    optimizers = [optim.optimizers_for(objective, settings.optimizer) for objective in objectives]
    run = State(model, objectives, optimizers, monitors, settings, crew)
    run.seed()
    if resume is not None:
        run.restore(resume)
    elif settings.micro_batch == "auto":
        run.room.rows = run.held_out_room.rows = auto_batch_size.find(run, batches)
    stopped = False
    while not stopped and run.step < settings.total_steps:
        step = _answered(run, _step(run, batches), recall)
        yield step
        stopped = step.stop is not None


def _answered(run: State, step: Step, recall: Recall) -> Step:
    """The step with what its monitors asked for done: stopping comes before going back, and both before being through."""
    asked = [wish for monitor in run.monitors if (wish := monitor.observe(step))]
    stops = [wish.why for wish in asked if isinstance(wish, Stop)]
    back = next((wish for wish in asked if isinstance(wish, GoBack)), None)
    if back is not None and not stops:
        good = recall()
        if good is not None:
            return replace(step, back=run.go_back(good, back))
        stops = [f"{back.why}; there is no checkpoint to go back to"]
    for wish in asked:
        if isinstance(wish, Slow):
            run.slower.append((wish.factor, run.settings.total_steps))
            step = replace(step, slowed=f"{wish.why}; rates × {wish.factor:g}")
    if not stops and run.step == run.settings.total_steps:
        stops = [f"all {run.settings.total_steps} steps done"]
    return replace(step, stop="; ".join(stops)) if stops else step


def _step(run: State, batches: Batches) -> Step:
    """Draw a batch, let every objective descend on it, and look at held-out data when it is time."""
    settings, begin = run.settings, time.perf_counter()
    length = seq_len_schedule.length_at(settings.curriculum, run.step, settings.length)
    batch = replace(batches.take(run.position, settings.batch), smoothing=settings.label_smoothing)
    batch = batch if settings.curriculum is None else seq_len_schedule.shortened(batch, length)
    drawn = time.perf_counter()
    random, share = rng_state.take(), run.share()
    run.model.train()
    terms: dict[str, float] = {}
    norms: dict[str, float] = {}
    inside: dict[str, tuple[float, str, str]] = {}
    descents: list[Descent] = []
    for objective, own in zip(run.objectives, run.optimizers, strict=True):
        optim.set_rates(own, share)
        descents.append(_descend(run, objective, own, batch))
        prefix, update = "" if len(run.objectives) == 1 else f"{objective.name}.", descents[-1].update
        terms |= {f"{prefix}{name}": value for name, value in update.terms.items()}
        norms |= {f"{prefix}{role}": norm for role, norm in update.grad_norms.items()}
        inside |= {f"{prefix}{name}": told for name, told in descents[-1].inside.items()}
    facts: dict[str, Any] = {
        "step": run.step + 1,
        "position": run.position,
        "micro_batch": run.room.rows * _pieces(settings, batch),
        "precision": settings.precision,
        "smoothing": batch.smoothing,
        "scale": run.scaler.scale,
    }
    overflow, skipped = (_together(whys) for whys in ([d.overflow for d in descents], [d.refused for d in descents]))
    run.scaler.settle(overflow is not None)
    run.step += 1
    run.position += settings.batch
    if run.average is not None and not (overflow or skipped):
        run.average.follow(run.step)
    ended = time.perf_counter()
    return Step(
        number=run.step,
        terms=terms,
        held_out=_held_out(run, batches) if _due(settings, run.step) else None,
        share=share,
        grad_norm=math.hypot(*(each.update.grad_norm for each in descents)),
        grad_norms=norms,
        inside=inside,
        micro_batch=run.room.rows,
        targets=gradients.targets(batch),
        rows=len(batch.inputs_BT),
        length=batch.inputs_BT.shape[1],
        positions=batch.inputs_BT.numel(),
        epochs=run.position / len(batches.rows),
        seconds=ended - begin,
        data_seconds=drawn - begin,
        scale=facts["scale"],
        overflow=overflow,
        skipped=skipped,
        slowed=None,
        back=None,
        stop=None,
        judged=run.judged,
        snapshot=run.snapshot,
        evidence=partial(run.evidence, batch, random, facts),
    )


def _together(whys: Sequence[str | None]) -> str | None:
    return "; ".join(why for why in whys if why) or None


class Descent(NamedTuple):
    """One objective's update, and why it was not applied: too large for fp16's scale, of which no monitor is told, or refused."""

    update: Update
    overflow: str | None
    refused: str | None
    inside: Told


def _descend(run: State, objective: Objective, own: Sequence[torch.optim.Optimizer], batch: Batch) -> Descent:
    """One update of one objective's parameters, unless it overflowed, is not finite, or a monitor refuses it."""
    settings = run.settings
    pieces, random = _pieces(settings, batch), rng_state.take()

    def again() -> None:
        rng_state.give_back(*random)
        objective.after(False)  # what half a batch told is told once more

    found = run.room.fit(
        lambda rows: gradients.passes(objective, batch, rows * pieces, settings.precision, run.scaler.scale, run.device, run.crew),
        again,
        run.crew,
    )
    settled = gradients.settled(objective, found, run.scaler.scale, settings.optimizer.clip, run.crew)
    update = Update(objective.name, run.step + 1, *settled)
    overflow, refused = run.scaler.overflow(update), None
    if not overflow:
        refused = _not_finite(update) or next((why for monitor in run.monitors if (why := monitor.weigh(update))), None)
    applied = not (overflow or refused)
    if applied:
        for optimizer in own:
            optimizer.step()
    return Descent(update, overflow, refused, objective.after(applied))


def _pieces(settings: Settings, batch: Batch) -> int:
    """Into how many the curriculum cut each row: so many more of them take the place of one."""
    return len(batch.inputs_BT) // settings.batch


def _not_finite(update: Update) -> str | None:
    wrong = [f"{name} is {value}" for name, value in update.terms.items() if not math.isfinite(value)]
    if not math.isfinite(update.grad_norm):
        wrong.append(f"the gradient norm is {update.grad_norm}")
    return f"not finite: {', '.join(wrong)}" if wrong else None


def _due(settings: Settings, step: int) -> bool:
    wanted = settings.held_out
    return wanted is not None and (step % wanted.every == 0 or step == 1 or step == settings.total_steps)


@torch.no_grad()
def _held_out(run: State, batches: Batches) -> Mapping[str, float]:
    """Terms of the first objective on the held-out batches, by target, without dropout; random states are as before afterwards."""
    run.model.eval()

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        return gradients.terms(run.objectives[0], gradients.to(batch, run.device), run.settings.precision)

    with torch.random.fork_rng(enabled=True), run.judged():
        return run.held_out_room.fit(
            lambda rows: gradients.mean_terms(loss, batches.held_out, rows, run.crew), lambda: None, run.crew
        )
