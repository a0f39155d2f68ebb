"""Test checkpoint retention, background writing and recovery after a kill."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import save_to_kill
import torch
from forked import ForkedProcess

from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.checkpoints.manager import CheckpointManager, list_steps, step_dir, steps_to_delete
from provenlm.training.config_sections import CheckpointConfig


def state(step: int, value: float = 0.0) -> Checkpoint:
    return Checkpoint({"model": {"w": torch.full((3,), value)}}, {"step": step})


@pytest.fixture
def make_manager(tmp_path: Path) -> Callable[..., CheckpointManager]:
    def result(interval: int = 5, last: int = 2, spaced: int | None = None, best: bool = False) -> CheckpointManager:
        return CheckpointManager(tmp_path, CheckpointConfig(interval, last, spaced, best), print)

    return result


@pytest.mark.parametrize(
    ("val_losses", "config", "deleted"),
    [
        ({5: None, 10: None, 15: None}, CheckpointConfig(5, 2, None, False), [5]),
        ({5: None, 10: None, 15: None}, CheckpointConfig(5, 3, None, False), []),
        ({5: None, 10: None, 15: None, 20: None, 25: None}, CheckpointConfig(5, 1, 10, False), [5, 15]),
        ({5: 1.0, 10: 3.0, 15: 2.0}, CheckpointConfig(5, 1, None, True), [10]),
        ({5: 1.0, 10: 3.0, 15: 2.0}, CheckpointConfig(5, 1, None, False), [5, 10]),
        ({5: 1.0, 10: 1.0, 15: None}, CheckpointConfig(5, 1, None, True), [10]),
        ({5: None, 7: None, 10: None}, CheckpointConfig(5, 2, None, False), [7]),  # between two intervals, and no longer the latest
        ({5: None, 10: None, 12: None}, CheckpointConfig(5, 2, None, False), []),
        ({5: 2.0, 7: 1.0, 10: 3.0}, CheckpointConfig(5, 1, None, True), [5]),
        ({3: None}, CheckpointConfig(5, 1, None, False), []),
    ],
)
def test_checkpoints_that_no_rule_keeps_are_deleted(
    val_losses: dict[int, float | None], config: CheckpointConfig, deleted: list[int]
) -> None:
    assert steps_to_delete(val_losses, config) == deleted


def test_the_retention_rules_delete_folders(make_manager: Callable[..., CheckpointManager], tmp_path: Path) -> None:
    manager = make_manager(5, 1, 10, True)
    for step, score in ((5, 3.0), (10, 2.0), (13, 1.0), (15, None), (20, 4.0), (25, None)):
        manager.save(state(step), {}, score)
    manager.close()
    assert list_steps(tmp_path) == [10, 13, 20, 25]
    assert manager.retained_dirs() == [step_dir(tmp_path, step) for step in (10, 13, 20)]


def test_a_checkpoint_in_writing_does_not_change(
    make_manager: Callable[..., CheckpointManager],
) -> None:
    weights, counts = torch.zeros(1_000_000), [[1, 2]]
    manager = make_manager()
    manager.save(Checkpoint({"model": {"w": weights}}, {"step": 5, "counts": counts}), {}, None)
    weights.fill_(7)
    counts[0].append(3)
    manager.close()
    newest = manager.latest()
    assert newest is not None
    back = checkpoint.load_checkpoint(newest)
    assert back.state_dicts["model"]["w"].abs().max() == 0
    assert back.metadata["counts"] == [[1, 2]]


def test_saving_returns_before_the_state_is_written(make_manager: Callable[..., CheckpointManager], tmp_path: Path) -> None:
    """The writer waits for a reader of a pipe, which comes only after `save` has returned."""
    manager = make_manager()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    manager._thread.submit(pipe.write_text, "begin")
    manager.save(state(5), {}, None)
    assert list_steps(tmp_path) == []
    assert pipe.read_text() == "begin"
    manager.close()
    assert list_steps(tmp_path) == [5]


def test_a_failed_write_is_raised_at_the_next_save(make_manager: Callable[..., CheckpointManager], tmp_path: Path) -> None:
    manager = make_manager()
    (tmp_path / "step-00000005").write_text("a file where a folder should be")
    (tmp_path / ".tmp-step-00000010").write_text("likewise")
    manager.save(state(10), {}, None)
    with pytest.raises(OSError):
        manager.save(state(15), {}, None)


def test_a_rollback_takes_the_latest_regular_checkpoint(make_manager: Callable[..., CheckpointManager], tmp_path: Path) -> None:
    manager = make_manager()
    for step in (5, 10, 12):
        manager.save(state(step, float(step)), {}, None)
    results = manager.rollback_target()
    assert results is not None
    assert results.metadata["step"] == 10
    assert results.state_dicts["model"]["w"].tolist() == [10, 10, 10]
    assert list_steps(tmp_path) == [5, 10]


def test_a_rollback_passes_over_a_damaged_checkpoint(tmp_path: Path) -> None:
    messages: list[str] = []
    manager = CheckpointManager(tmp_path, CheckpointConfig(5, 2, None, False), messages.append)
    for step in (5, 10):
        manager.save(state(step), {}, None)
    manager.wait()
    (tmp_path / "step-00000010" / "model.safetensors").write_bytes(b"")
    results = manager.rollback_target()
    assert results is not None
    assert results.metadata["step"] == 5
    assert messages == ["checkpoint step-00000010 is damaged (model.safetensors must have 76 bytes, got 0); trying an older one"]


def test_without_checkpoints_there_is_no_rollback_target(make_manager: Callable[..., CheckpointManager]) -> None:
    assert make_manager().rollback_target() is None


def test_a_kill_during_a_save_never_loses_a_checkpoint(tmp_path: Path) -> None:
    """SIGKILL the process at every file operation below the folder while it saves two checkpoints."""
    process = ForkedProcess(save_to_kill.main, tmp_path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    results = json.loads(output.splitlines()[-1])
    events = [each["event"].split()[0] for each in results]
    assert {"open", "os.mkdir", "os.rename", "os.rmdir"} <= set(events)
    assert all(each["same"] for each in results), results
    published = [i for i, each in enumerate(results) if each["remaining"]]
    assert published, "no kill came after the manager state was whole"
    for each in results[published[0] :]:
        assert each["newest"] is not None, each
    newest = [each["newest"] or "" for each in results]
    assert newest == sorted(newest)  # later kills never leave an older newest
    assert newest[0] == "" and newest[-1] == "step-00000004"
