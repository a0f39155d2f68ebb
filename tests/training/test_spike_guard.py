"""Test the spike guard: skips, rollbacks with lower rates, and stopping."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.callbacks.spike_guard import SpikeGuard, robust_zscore
from provenlm.training.checkpoints import checkpoint, replay
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.checkpoints.manager import CheckpointManager, step_dir
from provenlm.training.config_sections import SpikeGuardConfig
from provenlm.training.dataloader import DataLoader, build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.step import GradientInfo, StepResult

CONFIG = SpikeGuardConfig(
    window_size=8,
    min_history=4,
    threshold_std=6.0,
    max_skips=2,
    skip_window=4,
    max_rollbacks=2,
    rollback_lr_factor=0.5,
    rollback_lr_steps=3,
)


class PoisonedDataLoader:
    """Return batches; those at `positions` of the stream have one token as every target, an outlier."""

    def __init__(self, dataloader: DataLoader, positions: set[int]) -> None:
        self.sequences, self.val_batches, self.dataloader, self.positions = (
            dataloader.sequences,
            dataloader.val_batches,
            dataloader,
            positions,
        )
        self.starts: list[int] = []

    def train_batch(self, start: int, num_sequences: int) -> TokenBatch:
        self.starts.append(start)
        batch = self.dataloader.train_batch(start, num_sequences)
        if start in self.positions:
            batch.targets_BT[batch.targets_BT != IGNORE] = 1
        return batch


class Case:
    """Train on poisoned data with checkpoints, as the train stage does."""

    def __init__(self, dataset: Any, model_config: Any, config: Any, root: Path, positions: set[int], resume: bool = False) -> None:
        self.manager = CheckpointManager(root, config.checkpoints, print)
        newest = self.manager.latest() if resume else None
        rng_state.seed_all(3)
        self.model: nn.Module = SPEC.build(model_config, dataset.vocab_size)
        self.data: Any = PoisonedDataLoader(build_dataloader(dataset, config), positions)
        self.callback = SpikeGuard(config.spike_guard)
        self.history = StepHistory()
        state = None if newest is None else checkpoint.load_checkpoint(newest)
        objectives = SPEC.objectives(self.model, IGNORE)
        self.steps = self.history.record_steps(
            train_steps(self.model, objectives, self.data, [self.callback], config, state, self.manager.rollback_target)
        )
        self.interval = config.checkpoints.save_interval

    def run(self, until: int | None = None) -> list[StepResult]:
        """Take steps to the end or up to the `until`-th, with a checkpoint at every interval."""
        steps = []
        for step in self.steps:
            steps.append(step)
            if not step.rollback_reason and step.number % self.interval == 0:
                self.manager.save(step.snapshot(), {}, None)
            if len(steps) == until:
                break
        self.manager.wait()
        return steps

    def weights(self) -> list[Any]:
        return [p.tolist() for p in self.model.parameters()]


@pytest.fixture
def case(dataset: Any, model_config: Any, make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Case]:
    """24 steps of 4 rows, a checkpoint every 5; positions are 0, 4, 8 …"""

    def result(name: str, positions: set[int], resume: bool = False, make_config: Any = make_config, **changes: Any) -> Case:
        common = {"max_steps": 24, "global_batch_size": 4, "micro_batch_size": 2, "eval": None, "label_smoothing": 0.05}
        config = make_config(**common, spike_guard=replace(CONFIG, **changes))
        return Case(dataset, model_config, config, tmp_path / name, positions, resume)

    return result


def test_the_robust_zscore_worked_out_by_hand() -> None:
    # logs base e of e^0 … e^4: median 2, absolute deviations 2 1 0 1 2 with median 1
    usual = [math.exp(i) for i in range(5)]
    assert robust_zscore(math.exp(2 + 3 * 1.4826), usual) == pytest.approx(3.0)
    assert robust_zscore(math.exp(-4), usual) < 0


def test_one_outlier_in_the_window_does_not_hide_the_next() -> None:
    usual = [math.exp(i / 10) for i in range(9)]
    assert robust_zscore(1e6, [*usual, 1e6]) == pytest.approx(robust_zscore(1e6, usual), rel=0.3)


def test_losses_that_are_not_positive_are_scored_without_logs() -> None:
    assert robust_zscore(2 + 1.4826 * 5, [0.0, 1, 2, 3, 4]) == pytest.approx(5.0)


def test_a_rise_below_the_min_deviation_is_no_spike() -> None:
    assert robust_zscore(1.02, [1.0] * 8) < 1
    assert robust_zscore(2.0, [1.0] * 8) > 6


def update(loss: float, grad_norm: float = 1.0) -> GradientInfo:
    return GradientInfo("o", 1, {"loss": loss}, grad_norm, {})


def test_nothing_is_skipped_before_min_history_steps() -> None:
    callback = SpikeGuard(CONFIG)
    assert [callback.pre_optim_step(update(loss)) for loss in (1.0, 1.0, 1.0, 99.0)] == [None] * 4


@pytest.mark.parametrize(("spike", "named"), [(update(3.0), "loss 3 "), (update(1.0, 50.0), "gradient norm 50 ")])
def test_a_loss_or_gradient_spike_is_skipped_and_not_in_the_window(spike: GradientInfo, named: str) -> None:
    callback = SpikeGuard(CONFIG)
    for i in range(6):
        callback.pre_optim_step(update(1 + i / 100, 1 + i / 100))
    before = callback.state_dict()
    assert (callback.pre_optim_step(spike) or "").startswith(named)
    assert callback.state_dict() == before


def test_the_spike_guard_survives_a_checkpoint() -> None:
    callback, second = SpikeGuard(CONFIG), SpikeGuard(CONFIG)
    for i in range(20):
        callback.pre_optim_step(update(1 + i / 100))
    second.load_state_dict(callback.state_dict())
    assert second.state_dict() == callback.state_dict()
    assert second.pre_optim_step(update(1.31)) == callback.pre_optim_step(update(1.31))
    assert len(second.state_dict()["windows"]["o"]) == 8


def test_healthy_data_cause_no_skip(case: Callable[..., Case]) -> None:
    values = case("healthy", set()).run()
    assert [(step.skip_reason, step.rollback_reason) for step in values] == [(None, None)] * 24


def test_a_spike_is_skipped_and_keeps_the_weights(case: Callable[..., Case]) -> None:
    first = case("spike", {40})  # the eleventh step
    values = first.run(10)
    before = first.weights()
    (step,) = first.run(1)
    assert (step.skip_reason or "").startswith(("loss", "gradient norm"))
    assert first.weights() == before
    assert step.number == 11
    rest = first.run()
    assert values[-1].skip_reason is None and [s.skip_reason for s in rest] == [None] * 13
    assert rest[-1].stop_reason == "completed all 24 steps"
    assert [row["skip_reason"] for row in first.history.rows if "skip_reason" in row] == [step.skip_reason]


def test_repeated_spikes_roll_back_past_their_data_with_lower_rates(case: Callable[..., Case]) -> None:
    first = case("twice", {44, 48})  # steps 12 and 13; the checkpoint before is that of step 10
    values = first.run()
    (back,) = [step for step in values if step.rollback_reason]
    assert back.number == 13
    assert "2 of the last 4 steps skipped" in (back.rollback_reason or "")
    assert "rolled back from step 13 to 10, skipped 12 sequences, learning rates × 0.5 for 3 steps" in (back.rollback_reason or "")
    assert [step.number for step in values] == [*range(1, 14), *range(11, 25)]
    assert first.data.starts == list(range(0, 4 * 27, 4))  # no row is drawn twice
    shares = {step.number: step.lr_scale for step in values[:13]}
    repeated = {step.number: step.lr_scale for step in values[13:]}
    assert [repeated[n] / shares[n] for n in (11, 12, 13)] == pytest.approx([0.5, 0.5, 0.5])
    healthy = case("healthy", set()).run()
    assert repeated[14] == healthy[13].lr_scale
    assert [row["step"] for row in first.history.effective_rows()] == list(range(1, 25))
    assert len(first.history.rows) == 27


def test_a_rollback_restores_the_ema_and_the_loss_scale(case: Callable[..., Case], make_config: Callable[..., Any]) -> None:
    first = case("averaged", {44, 48}, make_config=partial(make_config, ema_decay=0.9, precision="fp16"))
    back = next(step for step in iter(lambda: first.run(1)[0], None) if step.rollback_reason)
    good, now = checkpoint.load_checkpoint(step_dir(first.manager.root, 10)), back.snapshot()
    for name in ("model", "training_weights"):
        assert all(torch.equal(tensor, good.state_dicts[name][key]) for key, tensor in now.state_dicts[name].items())
    assert now.metadata["grad_scaler"] == list(good.metadata["grad_scaler"]) == [2.0**16, 10]
    assert first.run()[-1].stop_reason == "completed all 24 steps"


def test_a_nan_loss_is_skipped_and_causes_a_rollback(case: Callable[..., Case]) -> None:
    first = case("nan", set())
    first.run(12)
    parameter = next(first.model.parameters())
    with torch.no_grad():
        parameter.fill_(math.nan)  # as after a bad update
    values = first.run()
    assert (values[0].skip_reason or "").startswith("not finite: ")
    assert values[1].rollback_reason and values[1].number == 14
    assert values[-1].stop_reason == "completed all 24 steps"
    assert all(bool(p.isfinite().all()) for p in first.model.parameters())


def test_training_stops_after_max_rollbacks(case: Callable[..., Case]) -> None:
    first = case("hopeless", set(range(44, 400, 4)))
    values = first.run()
    backs = [step for step in values if step.rollback_reason]
    assert [step.number for step in backs] == [13, 12]
    assert values[-1].number == 12
    assert (values[-1].stop_reason or "").endswith("already rolled back 2 times")
    assert values[-2].lr_scale / backs[0].lr_scale < 0.5  # both factors hold at once


def test_a_rollback_without_a_checkpoint_stops_the_training(case: Callable[..., Case]) -> None:
    values = case("early", {16, 20}, min_history=2).run(None)
    assert "rolled back" not in (values[-1].stop_reason or "")
    first = case("none", {24, 28})
    first.interval = 100
    assert (first.run()[-1].stop_reason or "").endswith("no checkpoint to roll back to")


@pytest.mark.parametrize("cut", [7, 12, 14, 17, 20])
def test_a_run_interrupted_around_a_rollback_resumes_exactly(case: Callable[..., Case], cut: int) -> None:
    """Interrupt after `cut` steps with a checkpoint, or kill: windows, skips, data position and rates are restored."""
    positions = {44, 48, 72}
    full = case("uninterrupted", positions)
    expected = full.run()
    result = case("interrupted", positions)
    last = result.run(cut)[-1]
    if not last.rollback_reason:
        result.manager.save(last.snapshot(), {}, None)
    result.manager.close()
    for name in ("interrupted", "killed"):
        if name == "killed":
            case(name, positions).run(cut)
        resumed = case(name, positions, resume=True)
        rest = resumed.run()
        assert resumed.weights() == full.weights()
        assert [(s.number, s.terms, s.lr_scale, s.skip_reason) for s in rest] == [
            (s.number, s.terms, s.lr_scale, s.skip_reason) for s in expected[-len(rest) :]
        ]


@pytest.mark.parametrize("forgotten", ["windows", "skipped_steps", "samples_seen", "lr_backoffs"])
def test_without_a_part_of_the_state_the_resumed_run_differs(case: Callable[..., Case], tmp_path: Path, forgotten: str) -> None:
    """Show that the comparison above can fail."""
    positions = {44, 48, 72}
    expected = case("uninterrupted", positions).run()
    first = case("interrupted", positions)
    state = first.run(14 if forgotten in ("samples_seen", "lr_backoffs") else 12)[-1].snapshot()
    metadata: dict[str, Any] = dict(state.metadata)
    if forgotten in ("windows", "skipped_steps"):
        metadata["callbacks"] = [{**metadata["callbacks"][0], forgotten: type(first.callback.state_dict()[forgotten])()}]
    else:
        metadata[forgotten] = {"samples_seen": metadata["samples_seen"] - 4, "lr_backoffs": []}[forgotten]
    first.manager.save(replace(state, metadata=metadata), {}, None)
    first.manager.close()
    rest = case("interrupted", positions, resume=True).run()
    assert [(s.number, s.terms, s.lr_scale) for s in rest] != [(s.number, s.terms, s.lr_scale) for s in expected[-len(rest) :]]


def test_replaying_a_dump_repeats_the_failed_step(case: Callable[..., Case], model_config: Any, tmp_path: Path) -> None:
    """Dropout draws the same numbers, so terms and norm have the same bits."""
    first = case("dumped", {44, 48}, max_rollbacks=0)
    last = first.run()[-1]
    assert last.stop_reason and last.skip_reason
    model_metadata = ModelMetadata("moe", vars(model_config), 20, 8)
    checkpoint.save_checkpoint(tmp_path / "dump", last.debug_dump(), {"model.json": model_metadata.to_json()})
    rng_state.seed_all(99)
    repeated = replay.replay_step(tmp_path / "dump")
    assert repeated.terms["next_token"] == last.terms
    assert repeated.grad_norms["next_token"] == last.grad_norm
    assert (repeated.metadata["step"], repeated.metadata["samples_seen"]) == (13, 48)
