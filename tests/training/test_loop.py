"""The loop: it learns, it accumulates rightly, it stops with a reason, and going on equals never having stopped."""

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
from provenlm.models.common.objective import IGNORE, Batch, Objective
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


def begin(
    tokens: Any, shape: Any, settings: TrainConfig, resume: Any = None, monitors: Sequence[Any] = ()
) -> tuple[nn.Module, Iterator[StepResult]]:
    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    return model, train_steps(
        model, SPEC.objectives(model, IGNORE), build_dataloader(tokens, settings), monitors, settings, resume, lambda: None
    )


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_a_handful_of_strings_by_heart(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    wanted = settings(steps=60, batches="documents", length=12, batch=24, micro_batch=24)
    _, steps = begin(tokens, replace(shape, dropout=0.0), wanted)
    losses = [step.terms["cross_entropy"] for step in steps]
    assert losses[0] == pytest.approx(math.log(20), abs=0.2)
    assert losses[-1] < 0.5 * losses[0]


def test_the_last_step_says_that_all_are_done(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    *before, last = begin(tokens, shape, settings())[1]
    assert [step.stop_reason for step in before] == [None] * 11
    assert last.stop_reason == "all 12 steps done"


def test_eight_rows_at_once_and_four_times_two_give_the_same_weights(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    plain = replace(shape, dropout=0.0, load_balancing_weight=0.0, z_loss_weight=0.0)
    ends = []
    for rows in (8, 2):
        model, steps = begin(tokens, plain, settings(steps=3, batches="documents", length=12, micro_batch=rows))
        terms = [step.terms["cross_entropy"] for step in steps]
        ends.append((terms, weights(model)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    for name, value in ends[0][1].items():
        assert torch.allclose(value, ends[1][1][name], atol=2e-4), name


def test_parts_of_a_batch_weigh_by_their_targets() -> None:
    """Rows with 1 and 3 targets: the gradient of a sum over all four, not the mean of two means."""
    parameter = nn.Parameter(torch.zeros(1))

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        kept = batch.targets_BT != IGNORE
        mean = (batch.targets_BT * kept).sum() / kept.sum()
        return {"loss": mean * parameter.sum(), "value": mean}

    batch = Batch(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[8, IGNORE, IGNORE], [0, 0, 0]]))
    terms, norm, by_role = compute_gradients(
        Objective("o", {"rest": [parameter]}, loss, "value"), batch, 1, "fp32", 1.0, None, torch.device("cpu")
    )
    assert terms["value"] == pytest.approx(2.0)
    assert norm == by_role["rest"] == pytest.approx(2.0)


def test_looking_at_held_out_data_does_not_change_the_training(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    looking, steps = begin(tokens, shape, settings())
    held = [step.val_losses for step in steps]
    blind, steps = begin(tokens, shape, settings(held_out=None))
    assert all(step.val_losses is None for step in steps)
    assert [i + 1 for i, terms in enumerate(held) if terms] == [1, 5, 10, 12]
    assert same(weights(looking), weights(blind))


@pytest.mark.parametrize("kind", ["muon", "adamw", "average", "fp16"])
def test_going_on_from_a_checkpoint_equals_never_stopping(
    tokens: Any, shape: Any, settings: Callable[..., Any], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = settings().optimizer
    monkeypatch.setattr(grad_scaler, "FIRST", 2.0**26)  # overflows at first; the scale grows after the cut, counted from before it
    monkeypatch.setattr(grad_scaler, "PATIENCE", 5)
    changes = {
        "muon": {},
        "adamw": {"optimizer": replace(optimizer, matrix=optimizer.rest)},
        "average": {"ema": 0.9},
        "fp16": {"precision": "fp16", "ema": 0.9, "steps": 24, "label_smoothing": 0.1},
    }
    wanted, cut = settings(**changes[kind]), 15 if kind == "fp16" else 7
    whole, steps = begin(tokens, shape, wanted)
    seen = list(steps)
    history = [(step.terms, step.val_losses, step.grad_norm, step.loss_scale, step.overflow_reason) for step in seen]
    published = seen[-1].snapshot().state_dicts["model"]

    _, steps = begin(tokens, shape, wanted)
    for step in steps:
        if step.number == cut:
            checkpoint.save_checkpoint(tmp_path / "c", step.snapshot(), {})
            break
    rng_state.seed_all(99), random.random(), np.random.rand()  # another process would be elsewhere
    resumed, steps = begin(tokens, shape, wanted, checkpoint.load_checkpoint(tmp_path / "c"))
    again = list(steps)
    rest = [(step.terms, step.val_losses, step.grad_norm, step.loss_scale, step.overflow_reason) for step in again]
    assert repr(rest) == repr(history[cut:])  # nan, the norm of what overflowed, is the same nan
    assert same(weights(resumed), weights(whole))
    assert same(dict(again[-1].snapshot().state_dicts["model"]), dict(published))
    if kind == "fp16":
        assert {over is None for *_, over in history[:cut]} == {True, False}
        assert max(scale for *_, scale, _ in history[cut:]) > history[cut - 1][3]


@pytest.mark.parametrize("part", ["random", "optimizer", "trained", "scaler"])
def test_without_a_part_of_the_state_the_resumed_run_differs(
    tokens: Any, shape: Any, settings: Callable[..., Any], part: str
) -> None:
    """The comparison above can fail: each part of the state matters."""
    wanted = settings(precision="fp16", ema=0.9)
    whole, steps = begin(tokens, shape, wanted)
    scales = [step.loss_scale for step in steps]
    _, steps = begin(tokens, shape, wanted)
    state = next(step for step in steps if step.number == 7).snapshot()
    tensors = {name: {key: tensor.clone() for key, tensor in group.items()} for name, group in state.state_dicts.items()}
    if part == "random":
        tensors["random"]["cpu"] = torch.Generator().manual_seed(5).get_state()
    elif part == "trained":
        tensors["trained"] = tensors["model"]
    elif part == "optimizer":
        tensors["optimizer"] = {}
    facts = {**state.metadata, "scaler": [2.0**15, 0]} if part == "scaler" else state.metadata
    resumed, steps = begin(tokens, shape, wanted, checkpoint.Checkpoint(tensors, facts))
    if part == "scaler":
        assert [step.loss_scale for step in steps] != scales[7:]
    else:
        list(steps)
        assert not same(weights(resumed), weights(whole))


def test_another_number_of_threads_is_refused_rather_than_nearly_the_same(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    _, steps = begin(tokens, shape, settings())
    state = next(steps).snapshot()
    torch.set_num_threads(2)
    with pytest.raises(ProvenlmError, match="made with threads 1, this run has 2"):
        next(begin(tokens, shape, settings(), state)[1])


def test_other_settings_are_refused(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    state = next(begin(tokens, shape, settings())[1]).snapshot()
    with pytest.raises(ProvenlmError, match="made with settings"):
        next(begin(tokens, shape, settings(batch=4), state)[1])
    assert next(begin(tokens, shape, settings(watch=("dvclive",)), state)[1]).number == 2


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_weights(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    wanted = settings()
    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    (healthy,) = SPEC.objectives(model, IGNORE)
    calls = []

    def poisoned(batch: Batch) -> dict[str, torch.Tensor]:
        calls.append(batch)
        terms = dict(healthy.loss(batch))
        return terms if len(calls) < 7 else {**terms, "loss": terms["loss"] * math.nan}

    steps = train_steps(
        model,
        [replace(healthy, loss=poisoned)],
        build_dataloader(tokens, settings(held_out=None)),
        [NonFiniteGuard()],
        settings(held_out=None),
        None,
        lambda: None,
    )
    seen = []
    for step in steps:
        seen.append(step)
        if step.number == 3:
            before = weights(model)
    assert seen[-1].number == 4  # two passes a step
    assert (seen[-1].stop or "").startswith("at step 4: not finite: loss is nan")
    assert same(weights(model), before)
    assert wanted.steps == 12


def test_two_objectives_descend_in_turn_on_their_own_parameters(tokens: Any, settings: Callable[..., Any]) -> None:
    model = nn.ModuleDict({"left": nn.Linear(2, 1, bias=False), "right": nn.Linear(2, 1, bias=False)})

    def pull(name: str, goal: float) -> Objective:
        own = model[name].weight

        def loss(batch: Batch) -> dict[str, torch.Tensor]:
            both = sum(p.sum() for p in model.parameters())  # the other's parameters are in the graph, but not moved
            return {"loss": (own - goal).square().sum() + 0.0 * both}

        return Objective(name, {"rest": [own]}, loss, "loss")

    wanted = settings(steps=400, held_out=None)
    *_, last = train_steps(
        model, [pull("left", 1.0), pull("right", -1.0)], build_dataloader(tokens, wanted), [], wanted, None, lambda: None
    )
    assert set(last.terms) == {"left.loss", "right.loss"}
    assert model["left"].weight.flatten().tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    assert model["right"].weight.flatten().tolist() == pytest.approx([-1.0, -1.0], abs=0.05)


def test_the_history_keeps_a_row_a_step_through_parquet(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    history = StepHistory()
    list(history.record_steps(begin(tokens, shape, settings())[1]))
    back = StepHistory.from_parquet(history.to_parquet())
    assert back.rows == history.rows
    assert [step for step, _ in back.series("held_out.cross_entropy")] == [1, 5, 10, 12]


def test_bf16_keeps_the_weights_wide_and_learns(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    model, steps = begin(tokens, shape, settings(steps=30, precision="bf16"))
    losses = [step.terms["cross_entropy"] for step in steps]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("curriculum", [None, SeqLenScheduleConfig(4, 12, "linear")])
def test_smoothed_labels_are_trained_on_and_judged_without(
    tokens: Any, shape: Any, settings: Callable[..., Any], curriculum: Any
) -> None:
    """The first batch and the first weights are the same with and without: so is what judges, and what is made small is not."""
    plain = replace(shape, dropout=0.0)
    (one, other) = (next(begin(tokens, plain, settings(label_smoothing=e, curriculum=curriculum))[1]) for e in (0.0, 0.2))
    assert one.terms["cross_entropy"] == other.terms["cross_entropy"]
    assert one.terms["loss"] != pytest.approx(other.terms["loss"], abs=1e-4)
    model, steps = begin(tokens, plain, settings(label_smoothing=0.2))
    held_out = [step.val_losses for step in steps][-1]
    assert held_out is not None
    (objective,) = SPEC.objectives(model.eval(), IGNORE)
    (batch,) = build_dataloader(tokens, settings()).val_batches
    assert held_out == pytest.approx({name: value.item() for name, value in objective.loss(batch).items()}, rel=1e-6)
