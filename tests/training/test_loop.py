"""Test the training loop: learning, accumulation, stopping and exact resume."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from provenlm.core.errors import ProvenlmError
from provenlm.models.common.objective import IGNORE, Objective, TokenBatch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.callbacks.nonfinite import NonFiniteGuard
from provenlm.training.checkpoints import checkpoint
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import SeqLenScheduleConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.optim import grad_scaler
from provenlm.training.optim.gradients import compute_gradients
from provenlm.training.step import StepResult


def start(
    dataset: Any, model_config: Any, config: TrainConfig, resume: Any = None, callbacks: Sequence[Any] = ()
) -> tuple[nn.Module, Iterator[StepResult]]:
    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    return model, train_steps(
        model, SPEC.objectives(model, IGNORE), build_dataloader(dataset, config), callbacks, config, resume, lambda: None
    )


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_loop_memorizes_a_few_strings(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    config = make_config(max_steps=60, data_packing="padded", seq_len=12, global_batch_size=24, micro_batch_size=24)
    _, steps = start(dataset, replace(model_config, dropout=0.0), config)
    losses = [step.terms["cross_entropy"] for step in steps]
    assert losses[0] == pytest.approx(math.log(20), abs=0.2)
    assert losses[-1] < 0.5 * losses[0]


def test_the_last_step_has_a_stop_reason(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    *before, last = start(dataset, model_config, make_config())[1]
    assert [step.stop_reason for step in before] == [None] * 11
    assert last.stop_reason == "completed all 12 steps"


def test_gradient_accumulation_gives_the_same_weights(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    plain = replace(model_config, dropout=0.0, load_balancing_weight=0.0, z_loss_weight=0.0)
    ends = []
    for rows in (8, 2):
        model, steps = start(dataset, plain, make_config(max_steps=3, data_packing="padded", seq_len=12, micro_batch_size=rows))
        terms = [step.terms["cross_entropy"] for step in steps]
        ends.append((terms, weights(model)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    for name, value in ends[0][1].items():
        assert torch.allclose(value, ends[1][1][name], atol=2e-4), name


def test_micro_batches_are_weighted_by_their_targets() -> None:
    """Sequences with 1 and 3 targets: the gradient of the mean over all four, not the mean of two means."""
    parameter = nn.Parameter(torch.zeros(1))

    def loss(batch: TokenBatch) -> dict[str, torch.Tensor]:
        has_target = batch.targets_BT != IGNORE
        mean = (batch.targets_BT * has_target).sum() / has_target.sum()
        return {"loss": mean * parameter.sum(), "value": mean}

    batch = TokenBatch(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[8, IGNORE, IGNORE], [0, 0, 0]]))
    terms, norm, by_group = compute_gradients(
        Objective("o", {"default": [parameter]}, loss, "value"), batch, 1, "fp32", 1.0, None, torch.device("cpu")
    )
    assert terms["value"] == pytest.approx(2.0)
    assert norm == by_group["default"] == pytest.approx(2.0)


def test_evaluation_does_not_change_the_training(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    looking, steps = start(dataset, model_config, make_config())
    val_losses = [step.val_losses for step in steps]
    blind, steps = start(dataset, model_config, make_config(eval=None))
    assert all(step.val_losses is None for step in steps)
    assert [i + 1 for i, terms in enumerate(val_losses) if terms] == [1, 5, 10, 12]
    assert same(weights(looking), weights(blind))


@pytest.mark.parametrize("kind", ["muon", "adamw", "average", "fp16"])
def test_resuming_from_a_checkpoint_equals_never_stopping(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = make_config().optimizer
    monkeypatch.setattr(grad_scaler, "INITIAL_SCALE", 2.0**26)  # overflows at first; the scale grows after the resume
    monkeypatch.setattr(grad_scaler, "GROWTH_INTERVAL", 5)
    changes = {
        "muon": {},
        "adamw": {"optimizer": replace(optimizer, matrix=optimizer.default)},
        "average": {"ema_decay": 0.9},
        "fp16": {"precision": "fp16", "ema_decay": 0.9, "max_steps": 24, "label_smoothing": 0.1},
    }
    config, cut = make_config(**changes[kind]), 15 if kind == "fp16" else 7
    full, steps = start(dataset, model_config, config)
    results = list(steps)
    history = [(step.terms, step.val_losses, step.grad_norm, step.loss_scale, step.overflow_reason) for step in results]
    published = results[-1].snapshot().state_dicts["model"]

    _, steps = start(dataset, model_config, config)
    for step in steps:
        if step.number == cut:
            checkpoint.save_checkpoint(tmp_path / "c", step.snapshot(), {})
            break
    rng_state.seed_all(99), random.random(), np.random.rand()  # another process has other states
    resumed, steps = start(dataset, model_config, config, checkpoint.load_checkpoint(tmp_path / "c"))
    repeated = list(steps)
    rest = [(step.terms, step.val_losses, step.grad_norm, step.loss_scale, step.overflow_reason) for step in repeated]
    assert repr(rest) == repr(history[cut:])  # compares NaN norms of overflowed steps as equal
    assert same(weights(resumed), weights(full))
    assert same(dict(repeated[-1].snapshot().state_dicts["model"]), dict(published))
    if kind == "fp16":
        assert {over is None for *_, over in history[:cut]} == {True, False}
        assert max(scale for *_, scale, _ in history[cut:]) > history[cut - 1][3]


@pytest.mark.parametrize("part", ["rng", "optimizer", "training_weights", "grad_scaler"])
def test_without_a_part_of_the_state_the_resumed_run_differs(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], part: str
) -> None:
    """Show that the comparison above can fail: each part of the state matters."""
    config = make_config(precision="fp16", ema_decay=0.9)
    full, steps = start(dataset, model_config, config)
    scales = [step.loss_scale for step in steps]
    _, steps = start(dataset, model_config, config)
    state = next(step for step in steps if step.number == 7).snapshot()
    state_dicts = {name: {key: tensor.clone() for key, tensor in group.items()} for name, group in state.state_dicts.items()}
    if part == "rng":
        state_dicts["rng"]["cpu"] = torch.Generator().manual_seed(5).get_state()
    elif part == "training_weights":
        state_dicts["training_weights"] = state_dicts["model"]
    elif part == "optimizer":
        state_dicts["optimizer"] = {}
    metadata = {**state.metadata, "grad_scaler": [2.0**15, 0]} if part == "grad_scaler" else state.metadata
    resumed, steps = start(dataset, model_config, config, checkpoint.Checkpoint(state_dicts, metadata))
    if part == "grad_scaler":
        assert [step.loss_scale for step in steps] != scales[7:]
    else:
        list(steps)
        assert not same(weights(resumed), weights(full))


def test_resuming_with_another_number_of_threads_is_refused(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    _, steps = start(dataset, model_config, make_config())
    state = next(steps).snapshot()
    torch.set_num_threads(2)
    with pytest.raises(ProvenlmError, match="threads must be 2 as in this run, got 1"):
        next(start(dataset, model_config, make_config(), state)[1])


def test_resuming_with_another_config_is_refused(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    state = next(start(dataset, model_config, make_config())[1]).snapshot()
    with pytest.raises(ProvenlmError, match="config must be .* as in this run"):
        next(start(dataset, model_config, make_config(global_batch_size=4), state)[1])
    assert next(start(dataset, model_config, make_config(loggers=("dvclive",)), state)[1]).number == 2


def test_a_nan_loss_stops_the_run_and_keeps_the_weights(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    config = make_config()
    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    (healthy,) = SPEC.objectives(model, IGNORE)
    calls = []

    def poisoned(batch: TokenBatch) -> dict[str, torch.Tensor]:
        calls.append(batch)
        terms = dict(healthy.loss(batch))
        return terms if len(calls) < 7 else {**terms, "loss": terms["loss"] * math.nan}

    steps = train_steps(
        model,
        [replace(healthy, loss=poisoned)],
        build_dataloader(dataset, make_config(eval=None)),
        [NonFiniteGuard()],
        make_config(eval=None),
        None,
        lambda: None,
    )
    results = []
    for step in steps:
        results.append(step)
        if step.number == 3:
            before = weights(model)
    assert results[-1].number == 4  # two passes a step
    assert (results[-1].stop_reason or "").startswith("at step 4: not finite: loss is nan")
    assert same(weights(model), before)
    assert config.max_steps == 12


def test_each_objective_updates_its_own_parameters(dataset: Any, make_config: Callable[..., Any]) -> None:
    model = nn.ModuleDict({"left": nn.Linear(2, 1, bias=False), "right": nn.Linear(2, 1, bias=False)})

    def pull(name: str, goal: float) -> Objective:
        own = model[name].weight

        def loss(batch: TokenBatch) -> dict[str, torch.Tensor]:
            both = sum(p.sum() for p in model.parameters())  # the other parameters are in the graph, but not updated
            return {"loss": (own - goal).square().sum() + 0.0 * both}

        return Objective(name, {"default": [own]}, loss, "loss")

    config = make_config(max_steps=400, eval=None)
    *_, last = train_steps(
        model, [pull("left", 1.0), pull("right", -1.0)], build_dataloader(dataset, config), [], config, None, lambda: None
    )
    assert set(last.terms) == {"loss", "right.loss"}  # the first objective is the one that validation measures
    assert model["left"].weight.flatten().tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    assert model["right"].weight.flatten().tolist() == pytest.approx([-1.0, -1.0], abs=0.05)


def test_the_history_survives_parquet(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    history = StepHistory()
    list(history.record_steps(start(dataset, model_config, make_config())[1]))
    back = StepHistory.from_parquet(history.to_parquet())
    assert back.rows == history.rows
    assert [step for step, _ in back.series("val.cross_entropy")] == [1, 5, 10, 12]


def test_bf16_learns_with_fp32_weights(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    model, steps = start(dataset, model_config, make_config(max_steps=30, precision="bf16"))
    losses = [step.terms["cross_entropy"] for step in steps]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("schedule", [None, SeqLenScheduleConfig(4, 12, "linear")])
def test_label_smoothing_affects_training_and_not_evaluation(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], schedule: Any
) -> None:
    """With the same batch and weights, smoothing changes the minimized loss and not the evaluation term."""
    plain = replace(model_config, dropout=0.0)
    (first, second) = (
        next(start(dataset, plain, make_config(label_smoothing=e, seq_len_schedule=schedule))[1]) for e in (0.0, 0.2)
    )
    assert first.terms["cross_entropy"] == second.terms["cross_entropy"]
    assert first.terms["loss"] != pytest.approx(second.terms["loss"], abs=1e-4)
    model, steps = start(dataset, plain, make_config(label_smoothing=0.2))
    held_out = [step.val_losses for step in steps][-1]
    assert held_out is not None
    (objective,) = SPEC.objectives(model.eval(), IGNORE)
    (batch,) = build_dataloader(dataset, make_config()).val_batches
    assert held_out == pytest.approx({name: value.item() for name, value in objective.loss(batch).items()}, rel=1e-6)
