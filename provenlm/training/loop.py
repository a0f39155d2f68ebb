"""Run the training loop: one frozen `StepResult` for every step.

The loop owns no files, no progress bar and no checkpoint schedule; the caller that asks for the next step decides about them.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from provenlm.models.common.objective import Batch, Objective, StepMetrics
from provenlm.training import auto_batch_size, rng_state, seq_len_schedule
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DataLoader
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext
from provenlm.training.optim import factory as optim
from provenlm.training.optim import gradients
from provenlm.training.state import TrainerState
from provenlm.training.step import Callback, GradientInfo, ReduceLR, Rollback, StepResult, StopTraining

RollbackLoader = Callable[[], Checkpoint | None]  # returns the checkpoint to roll back to


def train_steps(
    model: nn.Module,
    objectives: Sequence[Objective],
    dataloader: DataLoader,
    callbacks: Sequence[Callback],
    config: TrainConfig,
    resume: Checkpoint | None,
    load_rollback_checkpoint: RollbackLoader,
    dist: DistributedContext = SINGLE_PROCESS,
) -> Iterator[StepResult]:
    """Train `model` on its device and yield after every step.

    Each step draws one batch; every objective updates its parameters on it in turn, each process of `dist` on its share of the batch. With
    `resume` the run continues after the checkpoint's step and gives the same bits as an uninterrupted run. A callback may request a
    rollback: the run then continues from `load_rollback_checkpoint()` with data that it has not seen. The last step has a `stop_reason`.
    """
    optimizers = [optim.build_optimizers(objective, config.optimizer) for objective in objectives]
    state = TrainerState(model, objectives, optimizers, callbacks, config, dist)
    state.seed_generators()
    if resume is not None:
        state.restore(resume)
    elif config.micro_batch_size == "auto":
        state.oom_backoff.micro_batch_size = state.eval_oom_backoff.micro_batch_size = auto_batch_size.find_micro_batch_size(
            state, dataloader
        )
    finished = False
    while not finished and state.step < config.total_steps:
        step = _apply_actions(state, _train_step(state, dataloader), load_rollback_checkpoint)
        yield step
        finished = step.stop_reason is not None


def _apply_actions(state: TrainerState, step: StepResult, load_rollback_checkpoint: RollbackLoader) -> StepResult:
    """Apply the actions that callbacks request after a step.

    StopTraining takes precedence over Rollback, and both over the end of training.
    """
    actions = [action for callback in state.callbacks if (action := callback.post_step(step))]
    stop_reasons = [action.reason for action in actions if isinstance(action, StopTraining)]
    rollback = next((action for action in actions if isinstance(action, Rollback)), None)
    if rollback is not None and not stop_reasons:
        checkpoint = load_rollback_checkpoint()
        if checkpoint is not None:
            return replace(step, rollback_reason=state.rollback(checkpoint, rollback))
        stop_reasons = [f"{rollback.reason}; no checkpoint to roll back to"]
    for action in actions:
        if isinstance(action, ReduceLR):
            state.lr_backoffs.append((action.factor, state.config.total_steps))
            step = replace(step, lr_drop_reason=f"{action.reason}; learning rates × {action.factor:g}")
    if not stop_reasons and state.step == state.config.total_steps:
        stop_reasons = [f"completed all {state.config.total_steps} steps"]
    return replace(step, stop_reason="; ".join(stop_reasons)) if stop_reasons else step


def _train_step(state: TrainerState, dataloader: DataLoader) -> StepResult:
    """Draw a batch, update every objective's parameters and evaluate if due."""
    config, start_time = state.config, time.perf_counter()
    seq_len = seq_len_schedule.seq_len_at_step(config.seq_len_schedule, state.step, config.seq_len)
    batch = dataloader.train_batch(state.samples_seen, config.global_batch_size)
    batch = batch if config.seq_len_schedule is None else seq_len_schedule.split_sequences(batch, seq_len)
    batch_time = time.perf_counter()
    saved_rng, lr_scale = rng_state.get_rng_state(), state.lr_scale()
    state.model.train()
    terms: dict[str, float] = {}
    grad_norms: dict[str, float] = {}
    model_metrics: dict[str, tuple[float, str, str]] = {}
    objective_steps: list[ObjectiveStep] = []
    for objective, optimizers in zip(state.objectives, state.optimizers, strict=True):
        optim.set_lr(optimizers, lr_scale)
        objective_steps.append(_objective_step(state, objective, optimizers, batch))
        prefix = "" if objective is state.objectives[0] else f"{objective.name}."  # the first one has the validation loss
        gradient_info = objective_steps[-1].gradient_info
        terms |= {f"{prefix}{name}": value for name, value in gradient_info.terms.items()}
        grad_norms |= {f"{prefix}{group}": norm for group, norm in gradient_info.grad_norms.items()}
        model_metrics |= {f"{prefix}{name}": metric for name, metric in objective_steps[-1].model_metrics.items()}
    metadata: dict[str, Any] = {
        "step": state.step + 1,
        "samples_seen": state.samples_seen,
        "micro_batch_size": state.oom_backoff.micro_batch_size * _splits_per_sequence(config, batch),
        "precision": config.precision,
        "loss_scale": state.grad_scaler.scale,
    }
    overflow_reason = _join_reasons([result.overflow_reason for result in objective_steps])
    skip_reason = _join_reasons([result.skip_reason for result in objective_steps])
    state.grad_scaler.update(overflow_reason is not None)
    state.step += 1
    state.samples_seen += config.global_batch_size
    if state.ema is not None and not (overflow_reason or skip_reason):
        state.ema.update(state.step)
    end_time = time.perf_counter()
    return StepResult(
        number=state.step,
        terms=terms,
        val_losses=_val_losses(state, dataloader) if _is_eval_step(config, state.step) else None,
        lr_scale=lr_scale,
        grad_norm=math.hypot(*(result.gradient_info.grad_norm for result in objective_steps)),
        grad_norms=grad_norms,
        model_metrics=model_metrics,
        micro_batch_size=state.oom_backoff.micro_batch_size,
        num_targets=batch.num_targets,
        num_sequences=batch.num_sequences,
        seq_len=batch.seq_len,
        num_positions=batch.num_sequences * batch.seq_len,
        epochs=state.samples_seen / len(dataloader.sequences),
        seconds=end_time - start_time,
        data_seconds=batch_time - start_time,
        loss_scale=metadata["loss_scale"],
        overflow_reason=overflow_reason,
        skip_reason=skip_reason,
        lr_drop_reason=None,
        rollback_reason=None,
        stop_reason=None,
        eval_weights=state.eval_weights,
        snapshot=state.snapshot,
        debug_dump=partial(state.debug_dump, batch, saved_rng, metadata),
    )


def _join_reasons(reasons: Sequence[str | None]) -> str | None:
    """Join the reasons that are set, or return None."""
    return "; ".join(reason for reason in reasons if reason) or None


class ObjectiveStep(NamedTuple):
    """Hold one objective's update and why it was not applied.

    `overflow_reason`: the gradients left the range of fp16, which callbacks do not see. `skip_reason`: not finite, or skipped by a callback.
    """

    gradient_info: GradientInfo
    overflow_reason: str | None
    skip_reason: str | None
    model_metrics: StepMetrics


def _objective_step(
    state: TrainerState, objective: Objective, optimizers: Sequence[torch.optim.Optimizer], batch: Batch
) -> ObjectiveStep:
    """Update one objective's parameters, unless the update is skipped.

    It is skipped if it overflows fp16, is not finite, or a callback asks for it.
    """
    config = state.config
    splits, saved_rng = _splits_per_sequence(config, batch), rng_state.get_rng_state()

    def reset() -> None:
        rng_state.set_rng_state(*saved_rng)
        objective.post_step(False)  # discard the metrics of the incomplete pass

    term_sums = state.oom_backoff.run(
        lambda num_sequences: gradients.accumulate_gradients(
            objective, batch, num_sequences * splits, config.precision, state.grad_scaler.scale, state.device, state.dist
        ),
        reset,
        state.dist,
    )
    result = gradients.finalize_gradients(objective, term_sums, state.grad_scaler.scale, config.optimizer.max_grad_norm, state.dist)
    gradient_info = GradientInfo(objective.name, state.step + 1, *result)
    overflow_reason, skip_reason = state.grad_scaler.overflow_reason(gradient_info), None
    if not overflow_reason:
        skip_reason = _nonfinite_reason(gradient_info) or next(
            (reason for callback in state.callbacks if (reason := callback.pre_optim_step(gradient_info))), None
        )
    applied = not (overflow_reason or skip_reason)
    if applied:
        for optimizer in optimizers:
            optimizer.step()
    return ObjectiveStep(gradient_info, overflow_reason, skip_reason, objective.post_step(applied))


def _splits_per_sequence(config: TrainConfig, batch: Batch) -> int:
    """Return into how many parts the sequence-length schedule splits each sequence."""
    return batch.num_sequences // config.global_batch_size


def _nonfinite_reason(gradient_info: GradientInfo) -> str | None:
    """Name the loss terms and norms that are not finite, or return None."""
    problems = [f"{name} is {value}" for name, value in gradient_info.terms.items() if not math.isfinite(value)]
    if not math.isfinite(gradient_info.grad_norm):
        problems.append(f"gradient norm is {gradient_info.grad_norm}")
    return f"not finite: {', '.join(problems)}" if problems else None


def _is_eval_step(config: TrainConfig, step: int) -> bool:
    """Return whether the validation loss is due after `step`."""
    eval_config = config.eval
    return eval_config is not None and (step % eval_config.interval == 0 or step == 1 or step == config.total_steps)


@torch.no_grad()
def _val_losses(state: TrainerState, dataloader: DataLoader) -> Mapping[str, float]:
    """Compute the first objective's mean loss terms on the validation batches.

    Uses the evaluation weights without dropout and restores the random state.
    """
    state.model.eval()

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        return gradients.loss_terms(state.objectives[0], gradients.to_device(batch, state.device), state.config.precision)

    with torch.random.fork_rng(enabled=True), state.eval_weights():
        return state.eval_oom_backoff.run(
            lambda num_sequences: gradients.mean_loss_terms(loss, dataloader.val_batches, num_sequences, state.dist),
            lambda: None,
            state.dist,
        )
