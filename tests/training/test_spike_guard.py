"""The ladder: a step that stands out is skipped, many send the run back past the data, and at last it stops with its evidence."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.callbacks.spike_guard import SpikeGuard, robust_zscore
from provenlm.training.checkpoints import checkpoint, replay
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.checkpoints.manager import CheckpointManager, step_dir
from provenlm.training.config_sections import SpikeGuardConfig as Wanted
from provenlm.training.dataloader import DataLoader, build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.step import GradientInfo, StepResult

WANTED = Wanted(
    window_size=8,
    min_history=4,
    threshold_std=6.0,
    max_skips=2,
    skip_window=4,
    max_rollbacks=2,
    rollback_lr_factor=0.5,
    rollback_lr_steps=3,
)


class Poisoned:
    """Batches whose rows at `places` of the stream have the same token as every target, which no net expects."""

    def __init__(self, batches: DataLoader, places: set[int]) -> None:
        self.rows, self.held_out, self.batches, self.places = batches.sequences, batches.val_batches, batches, places
        self.drawn: list[int] = []

    def take(self, position: int, count: int) -> Batch:
        self.drawn.append(position)
        batch = self.batches.batch_at(position, count)
        if position in self.places:
            batch.targets_BT[batch.targets_BT != IGNORE] = 1
        return batch


class Case:
    """A run over poisoned data with a store of checkpoints, as the stage has it."""

    def __init__(self, tokens: Any, shape: Any, settings: Any, root: Path, places: set[int], resume: bool = False) -> None:
        self.store = CheckpointManager(root, settings.checkpoints, print)
        newest = self.store.latest() if resume else None
        rng_state.seed_all(3)
        self.model: nn.Module = SPEC.build(shape, tokens.vocabulary)
        self.data: Any = Poisoned(build_dataloader(tokens, settings), places)
        self.monitor = SpikeGuard(settings.stability)
        self.history = StepHistory()
        state = None if newest is None else checkpoint.load_checkpoint(newest)
        objectives = SPEC.objectives(self.model, IGNORE)
        self.steps = self.history.record_steps(
            train_steps(self.model, objectives, self.data, [self.monitor], settings, state, self.store.rollback_target)
        )
        self.every = settings.checkpoints.every

    def run(self, until: int | None = None) -> list[StepResult]:
        """Steps to the end or up to the `until`-th that is seen, with checkpoints at their intervals."""
        seen = []
        for step in self.steps:
            seen.append(step)
            if not step.rollback_reason and step.number % self.every == 0:
                self.store.save(step.snapshot(), {}, None)
            if len(seen) == until:
                break
        self.store.wait()
        return seen

    def weights(self) -> list[Any]:
        return [p.tolist() for p in self.model.parameters()]


@pytest.fixture
def case(tokens: Any, shape: Any, settings: Callable[..., Any], tmp_path: Path) -> Callable[..., Case]:
    """24 steps of 4 rows, a checkpoint every 5; positions are 0, 4, 8 …"""

    def made(name: str, places: set[int], resume: bool = False, settings: Any = settings, **changes: Any) -> Case:
        usual = {"steps": 24, "batch": 4, "micro_batch": 2, "held_out": None, "label_smoothing": 0.05}
        wanted = settings(**usual, stability=replace(WANTED, **changes))
        return Case(tokens, shape, wanted, tmp_path / name, places, resume)

    return made


def test_the_score_is_the_distance_in_robust_deviations() -> None:
    # logs base e of e^0 … e^4: median 2, absolute deviations 2 1 0 1 2 with median 1
    usual = [math.exp(i) for i in range(5)]
    assert robust_zscore(math.exp(2 + 3 * 1.4826), usual) == pytest.approx(3.0)
    assert robust_zscore(math.exp(-4), usual) < 0


def test_one_wild_value_in_the_window_does_not_hide_the_next() -> None:
    usual = [math.exp(i / 10) for i in range(9)]
    assert robust_zscore(1e6, [*usual, 1e6]) == pytest.approx(robust_zscore(1e6, usual), rel=0.3)


def test_losses_that_are_not_positive_are_compared_as_they_are() -> None:
    assert robust_zscore(2 + 1.4826 * 5, [0.0, 1, 2, 3, 4]) == pytest.approx(5.0)


def test_where_values_hardly_differ_a_small_rise_is_no_spike() -> None:
    assert robust_zscore(1.02, [1.0] * 8) < 1
    assert robust_zscore(2.0, [1.0] * 8) > 6


def update(loss: float, grad_norm: float = 1.0) -> GradientInfo:
    return GradientInfo("o", 1, {"loss": loss}, grad_norm, {})


def test_nothing_is_refused_before_the_window_holds_enough() -> None:
    monitor = SpikeGuard(WANTED)
    assert [monitor.pre_optim_step(update(loss)) for loss in (1.0, 1.0, 1.0, 99.0)] == [None] * 4


@pytest.mark.parametrize(("spike", "named"), [(update(3.0), "loss 3 "), (update(1.0, 50.0), "gradient norm 50 ")])
def test_a_spike_of_either_kind_is_refused_and_stays_out_of_the_window(spike: GradientInfo, named: str) -> None:
    monitor = SpikeGuard(WANTED)
    for i in range(6):
        monitor.pre_optim_step(update(1 + i / 100, 1 + i / 100))
    before = monitor.state_dict()
    assert (monitor.pre_optim_step(spike) or "").startswith(named)
    assert monitor.state_dict() == before


def test_the_window_survives_a_checkpoint() -> None:
    monitor, other = SpikeGuard(WANTED), SpikeGuard(WANTED)
    for i in range(20):
        monitor.pre_optim_step(update(1 + i / 100))
    other.load_state_dict(monitor.state_dict())
    assert other.state_dict() == monitor.state_dict()
    assert other.pre_optim_step(update(1.31)) == monitor.pre_optim_step(update(1.31))
    assert len(other.state_dict()["windows"]["o"]) == 8


def test_healthy_data_meet_no_rung(case: Callable[..., Case]) -> None:
    seen = case("healthy", set()).run()
    assert [(step.skip_reason, step.rollback_reason) for step in seen] == [(None, None)] * 24


def test_a_planted_spike_is_skipped_and_leaves_the_weights(case: Callable[..., Case]) -> None:
    one = case("spike", {40})  # the eleventh step
    seen = one.run(10)
    before = one.weights()
    (step,) = one.run(1)
    assert (step.skip_reason or "").startswith(("loss", "gradient norm"))
    assert one.weights() == before
    assert step.number == 11
    rest = one.run()
    assert seen[-1].skip_reason is None and [s.skip_reason for s in rest] == [None] * 13
    assert rest[-1].stop_reason == "all 24 steps done"
    assert [row["skipped"] for row in one.history.rows if "skipped" in row] == [step.skip_reason]


def test_spikes_one_after_the_other_send_the_run_back_past_their_data_with_lower_rates(case: Callable[..., Case]) -> None:
    one = case("twice", {44, 48})  # steps 12 and 13; the checkpoint before is that of step 10
    seen = one.run()
    (back,) = [step for step in seen if step.rollback_reason]
    assert back.number == 13
    assert "2 of the last 4 steps skipped" in (back.rollback_reason or "")
    assert "went back from step 13 to 10, past 12 rows, rates × 0.5 for 3 steps" in (back.rollback_reason or "")
    assert [step.number for step in seen] == [*range(1, 14), *range(11, 25)]
    assert one.data.drawn == list(range(0, 4 * 27, 4))  # no row is drawn twice
    shares = {step.number: step.lr_scale for step in seen[:13]}
    again = {step.number: step.lr_scale for step in seen[13:]}
    assert [again[n] / shares[n] for n in (11, 12, 13)] == pytest.approx([0.5, 0.5, 0.5])
    healthy = case("healthy", set()).run()
    assert again[14] == healthy[13].lr_scale
    assert [row["step"] for row in one.history.effective_rows()] == list(range(1, 25))
    assert len(one.history.rows) == 27


def test_going_back_takes_the_average_and_the_scale_of_the_loss_along(
    case: Callable[..., Case], settings: Callable[..., Any]
) -> None:
    one = case("averaged", {44, 48}, settings=partial(settings, ema=0.9, precision="fp16"))
    back = next(step for step in iter(lambda: one.run(1)[0], None) if step.rollback_reason)
    good, now = checkpoint.load_checkpoint(step_dir(one.store.root, 10)), back.snapshot()
    for name in ("model", "trained"):
        assert all(torch.equal(tensor, good.state_dicts[name][key]) for key, tensor in now.state_dicts[name].items())
    assert now.metadata["scaler"] == list(good.metadata["scaler"]) == [2.0**16, 10]
    assert one.run()[-1].stop_reason == "all 24 steps done"


def test_a_loss_that_is_no_number_climbs_the_same_ladder(case: Callable[..., Case]) -> None:
    one = case("nan", set())
    one.run(12)
    parameter = next(one.model.parameters())
    with torch.no_grad():
        parameter.fill_(math.nan)  # what a bad update would have left
    seen = one.run()
    assert (seen[0].skip_reason or "").startswith("not finite: ")
    assert seen[1].rollback_reason and seen[1].number == 14
    assert seen[-1].stop_reason == "all 24 steps done"
    assert all(bool(p.isfinite().all()) for p in one.model.parameters())


def test_it_goes_back_so_often_and_then_stops(case: Callable[..., Case]) -> None:
    one = case("hopeless", set(range(44, 400, 4)))
    seen = one.run()
    backs = [step for step in seen if step.rollback_reason]
    assert [step.number for step in backs] == [13, 12]
    assert seen[-1].number == 12
    assert (seen[-1].stop_reason or "").endswith("already went back 2 times")
    assert seen[-2].lr_scale / backs[0].lr_scale < 0.5  # both factors hold at once


def test_without_a_checkpoint_it_stops_and_says_that_there_is_none(case: Callable[..., Case]) -> None:
    seen = case("early", {16, 20}, least=2).run(None)
    assert "back" not in (seen[-1].stop_reason or "")
    one = case("none", {24, 28})
    one.every = 100
    assert (one.run()[-1].stop_reason or "").endswith("there is no checkpoint to go back to")


@pytest.mark.parametrize("cut", [7, 12, 14, 17, 20])
def test_cut_anywhere_around_a_return_the_resumed_run_ends_the_same(case: Callable[..., Case], cut: int) -> None:
    """Stopped after `cut` steps with all saved, or killed: the windows, the skips, the place in the data and the rates go on."""
    places = {44, 48, 72}
    whole = case("whole", places)
    expected = whole.run()
    asked = case("asked", places)
    last = asked.run(cut)[-1]
    if not last.rollback_reason:
        asked.store.save(last.snapshot(), {}, None)
    asked.store.close()
    for name in ("asked", "killed"):
        if name == "killed":
            case(name, places).run(cut)
        resumed = case(name, places, resume=True)
        rest = resumed.run()
        assert resumed.weights() == whole.weights()
        assert [(s.number, s.terms, s.lr_scale, s.skip_reason) for s in rest] == [
            (s.number, s.terms, s.lr_scale, s.skip_reason) for s in expected[-len(rest) :]
        ]


@pytest.mark.parametrize("forgotten", ["windows", "skipped", "position", "slower"])
def test_without_a_part_of_the_state_the_resumed_run_differs(case: Callable[..., Case], tmp_path: Path, forgotten: str) -> None:
    """The comparison above can fail."""
    places = {44, 48, 72}
    expected = case("whole", places).run()
    one = case("asked", places)
    state = one.run(14 if forgotten in ("position", "slower") else 12)[-1].snapshot()
    facts: dict[str, Any] = dict(state.metadata)
    if forgotten in ("windows", "skipped"):
        facts["monitors"] = [{**facts["monitors"][0], forgotten: type(one.monitor.state_dict()[forgotten])()}]
    else:
        facts[forgotten] = {"position": facts["position"] - 4, "slower": []}[forgotten]
    one.store.save(replace(state, facts=facts), {}, None)
    one.store.close()
    rest = case("asked", places, resume=True).run()
    assert [(s.number, s.terms, s.lr_scale) for s in rest] != [(s.number, s.terms, s.lr_scale) for s in expected[-len(rest) :]]


def test_a_dump_repeats_the_step_that_it_stopped_over(case: Callable[..., Case], shape: Any, tmp_path: Path) -> None:
    """Dropout draws the same numbers: terms and norm are equal to the last bit."""
    one = case("dumped", {44, 48}, returns=0)
    last = one.run()[-1]
    assert last.stop_reason and last.skip_reason
    described = ModelMetadata("moe", vars(shape), 20, 8)
    checkpoint.save_checkpoint(tmp_path / "dump", last.debug_dump(), {"net.json": described.to_json()})
    rng_state.seed_all(99)
    again = replay.replay_step(tmp_path / "dump")
    assert again.terms["next_token"] == last.terms
    assert again.grad_norms["next_token"] == last.grad_norm
    assert (again.metadata["step"], again.metadata["position"]) == (13, 48)
