"""The store of checkpoints: what is kept, what a kill leaves, and that writing is behind the run's back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.checkpoints.manager import CheckpointManager, list_steps, step_dir, steps_to_delete
from provenlm.training.config_sections import CheckpointConfig

HERE = Path(__file__).resolve().parent


def state(step: int, value: float = 0.0) -> Checkpoint:
    return Checkpoint({"model": {"w": torch.full((3,), value)}}, {"step": step})


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., CheckpointManager]:
    def made(every: int = 5, last: int = 2, spaced: int | None = None, best: bool = False) -> CheckpointManager:
        return CheckpointManager(tmp_path, CheckpointConfig(every, last, spaced, best), print)

    return made


@pytest.mark.parametrize(
    ("found", "keep", "goes"),
    [
        ({5: None, 10: None, 15: None}, CheckpointConfig(5, 2, None, False), [5]),
        ({5: None, 10: None, 15: None}, CheckpointConfig(5, 3, None, False), []),
        ({5: None, 10: None, 15: None, 20: None, 25: None}, CheckpointConfig(5, 1, 10, False), [5, 15]),
        ({5: 1.0, 10: 3.0, 15: 2.0}, CheckpointConfig(5, 1, None, True), [10]),
        ({5: 1.0, 10: 3.0, 15: 2.0}, CheckpointConfig(5, 1, None, False), [5, 10]),
        ({5: 1.0, 10: 1.0, 15: None}, CheckpointConfig(5, 1, None, True), [10]),
        ({5: None, 7: None, 10: None}, CheckpointConfig(5, 2, None, False), [7]),  # between the intervals, and no longer the newest
        ({5: None, 10: None, 12: None}, CheckpointConfig(5, 2, None, False), []),
        ({5: 2.0, 7: 1.0, 10: 3.0}, CheckpointConfig(5, 1, None, True), [5]),
        ({3: None}, CheckpointConfig(5, 1, None, False), []),
    ],
)
def test_what_no_rule_keeps_goes(found: dict[int, float | None], keep: CheckpointConfig, goes: list[int]) -> None:
    assert steps_to_delete(found, keep) == goes


def test_the_rules_hold_for_folders(store: Callable[..., CheckpointManager], tmp_path: Path) -> None:
    one = store(5, 1, 10, True)
    for step, score in ((5, 3.0), (10, 2.0), (13, 1.0), (15, None), (20, 4.0), (25, None)):
        one.save(state(step), {}, score)
    one.close()
    assert list_steps(tmp_path) == [10, 13, 20, 25]
    assert one.retained_dirs() == [step_dir(tmp_path, step) for step in (10, 13, 20)]


def test_what_the_run_does_next_does_not_reach_a_state_that_is_being_written(store: Callable[..., CheckpointManager]) -> None:
    weights, seen = torch.zeros(1_000_000), [[1, 2]]
    one = store()
    one.save(Checkpoint({"model": {"w": weights}}, {"step": 5, "seen": seen}), {}, None)
    weights.fill_(7)
    seen[0].append(3)
    one.close()
    newest = one.latest()
    assert newest is not None
    back = checkpoint.load_checkpoint(newest)
    assert back.state_dicts["model"]["w"].abs().max() == 0
    assert back.metadata["seen"] == [[1, 2]]


def test_saving_returns_before_the_state_is_written(store: Callable[..., CheckpointManager], tmp_path: Path) -> None:
    """The writer waits for a reader of a pipe, which comes only after `save` has returned."""
    one = store()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    one._thread.submit(pipe.write_text, "begin")
    one.save(state(5), {}, None)
    assert list_steps(tmp_path) == []
    assert pipe.read_text() == "begin"
    one.close()
    assert list_steps(tmp_path) == [5]


def test_a_write_that_failed_is_told_at_the_next_save(store: Callable[..., CheckpointManager], tmp_path: Path) -> None:
    one = store()
    (tmp_path / "step-00000005").write_text("a file where a folder should be")
    (tmp_path / ".tmp-step-00000010").write_text("likewise")
    one.save(state(10), {}, None)
    with pytest.raises(OSError):
        one.save(state(15), {}, None)


def test_going_back_takes_the_newest_regular_one_and_gives_up_what_is_newer(
    store: Callable[..., CheckpointManager], tmp_path: Path
) -> None:
    one = store()
    for step in (5, 10, 12):
        one.save(state(step, float(step)), {}, None)
    found = one.rollback_target()
    assert found is not None
    assert found.metadata["step"] == 10
    assert found.state_dicts["model"]["w"].tolist() == [10, 10, 10]
    assert list_steps(tmp_path) == [5, 10]


def test_going_back_passes_over_a_damaged_one_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    one = CheckpointManager(tmp_path, CheckpointConfig(5, 2, None, False), said.append)
    for step in (5, 10):
        one.save(state(step), {}, None)
    one.wait()
    (tmp_path / "step-00000010" / "model.safetensors").write_bytes(b"")
    found = one.rollback_target()
    assert found is not None
    assert found.metadata["step"] == 5
    assert said == ["checkpoint step-00000010 is damaged (model.safetensors is not 76 bytes long); looking for an older one"]


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(store: Callable[..., CheckpointManager]) -> None:
    assert store().rollback_target() is None


def test_killed_anywhere_inside_a_save_it_resumes_bit_for_bit_and_never_has_less_than_before(tmp_path: Path) -> None:
    """SIGKILL at every opening, renaming, making and removing below the folder; two states are saved after one another."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, HERE / "save_to_kill.py", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    events = [each["event"].split()[0] for each in found]
    assert {"open", "os.mkdir", "os.rename", "os.rmdir"} <= set(events)
    assert all(each["same"] for each in found), found
    published = [i for i, each in enumerate(found) if each["left"]]
    assert published, "no kill came after the first state was whole"
    for each in found[published[0] :]:
        assert each["newest"] is not None, each
    newest = [each["newest"] or "" for each in found]
    assert newest == sorted(newest)  # later kills never leave an older newest
    assert newest[0] == "" and newest[-1] == "step-00000004"
