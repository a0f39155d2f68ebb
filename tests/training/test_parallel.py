"""More than one process: who computes what, what they tell each other, and what is said when one is gone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from provenlm.core.errors import UserError
from provenlm.training.parallel import Crew, crew

CPU = torch.device("cpu")
MEMBER = Path(__file__).parent / "crew_member.py"


def run(target: Path, fault: str, *launcher: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(MEMBER.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(MEMBER), str(target), fault]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("count", "size"), [(4, 2), (5, 2), (6, 3)])
def test_every_part_is_computed_once_by_one_process(count: int, size: int) -> None:
    parts = [(n, 1 / count) for n in range(count)]
    owned = [part for rank in range(size) for part in Crew(rank, size, CPU).own(parts)]
    assert sorted(owned) == parts


def test_a_process_without_a_part_of_its_own_repeats_one_that_weighs_nothing() -> None:
    assert Crew(2, 3, CPU).own([("a", 0.5), ("b", 0.5)]) == [("a", 0.0)]


def test_alone_nothing_is_changed_and_nobody_is_asked() -> None:
    alone = Crew(0, 1, CPU)
    parameter = nn.Parameter(torch.ones(2))
    assert alone.own([("a", 1.0)]) == [("a", 1.0)]
    assert alone.add([parameter], {"loss": torch.tensor(2.0)}) == {"loss": torch.tensor(2.0)}
    assert parameter.grad is None
    assert (alone.any(True), alone.any(False), alone.told(None)) == (True, False, None)


@pytest.mark.parametrize("launcher", [(), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")])
def test_two_processes_sum_their_gradients_and_hear_the_first_one(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    """By itself and under torchrun. The first holds a gradient of ones, the second of tens; a third parameter has none anywhere."""
    done = run(tmp_path, "none", *launcher)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["parts"], second["parts"]) == ([["a", 0.25], ["c", 0.5]], [["b", 0.25]])
    for found in (first, second):
        assert found["gradients"] == [[11.0] * 3, [1.0] * 3, None]
        assert found["loss"] == 3.0
        assert found["any"] == [False, True]
        assert found["told"] == [[0.0, 1.0, 2.0, 3.0], {"step": 5}]


def test_when_a_process_dies_the_first_says_which_and_does_not_wait_for_it(tmp_path: Path) -> None:
    done = run(tmp_path, "dies")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "UserError: process 1 ended with 7; the next run goes on from the last checkpoint"


def test_another_number_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (
        pytest.raises(UserError, match="train.processes: 2, but torchrun started 3; --nproc-per-node 2 would be right"),
        crew(2, CPU, []),
    ):
        pass
