"""More than one process: two give what one gives, step by step, and hear of everything that only one of them met.

The trainings are computed in double precision, where sums in another order differ in the fifteenth digit: a part of a batch that is
left out or counted twice, a norm of a part for the whole, or a matrix cut through, is then seen at once.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import process_group_member
import pytest
import torch
from process_group_member import CASES, LADDER, MIXTURE, USUAL
from safetensors.torch import load_file
from torch import Tensor, nn

from provenlm.core.errors import ProvenlmError
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config_sections import DistributedConfig
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext, init_distributed

CPU = torch.device("cpu")
MEMBER = Path(process_group_member.__file__)
WAYS = ["ddp", "fsdp2"]


class Found(NamedTuple):
    """What each of the two processes saw, and the weights that the first was left with."""

    first: dict[str, Any]
    second: dict[str, Any]
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("crew")
    environment = {**os.environ, "PYTHONPATH": str(MEMBER.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(MEMBER), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    return Found(first, second, load_file(folder / "weights.safetensors"))


def weights_of(found: Found, name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in found.weights.items() if key.startswith(f"{name}/")}


def as_one(found: Found, name: str, expected: tuple[list[dict[str, Any]], Checkpoint], digits: float = 1e-9) -> None:
    """`found` under `name` is what one process saw in its last steps, and so are the weights."""
    steps, state = expected
    seen = found.first[name]
    assert seen and [step["targets"] for step in seen] == [step["targets"] for step in steps[-len(seen) :]]
    for step, alone in zip(seen, steps[-len(seen) :], strict=True):
        assert step["norm"] == pytest.approx(alone["norm"], rel=digits, nan_ok=True)
        assert step["norms"] == pytest.approx(alone["norms"], rel=digits, nan_ok=True)
        assert step["terms"] == pytest.approx(alone["terms"], rel=digits, nan_ok=True)
        inside = [{name: told[0] for name, told in each["inside"].items()} for each in (step, alone)]
        assert inside[0] == pytest.approx(inside[1], rel=max(digits, 1e-5))  # sums of these are taken in single precision
        assert (step["held_out"] is None) == (alone["held_out"] is None)
        assert step["held_out"] is None or step["held_out"] == pytest.approx(alone["held_out"], rel=digits)
    ours = weights_of(found, name)
    assert ours.keys() == state.state_dicts["model"].keys()
    for key, tensor in state.state_dicts["model"].items():
        assert torch.allclose(ours[key], tensor, rtol=0.0, atol=digits), key


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(found: Found, case: str, way: str) -> None:
    as_one(found, f"{case} {way}", process_group_member.trained(*CASES[case]), 1e-3 if CASES[case][1].precision != "fp32" else 1e-9)


def test_the_comparison_is_of_trainings_that_move_and_are_clipped() -> None:
    steps, state = process_group_member.trained(*CASES["mixture"])
    fresh = process_group_member.trained(*CASES["mixture"], until=1)[1]
    assert all(step["norm"] > 0.1 for step in steps)
    assert len({step["targets"] for step in steps}) > 1
    moved = [
        not torch.allclose(state.state_dicts["model"][n], t, rtol=0.0, atol=1e-4) for n, t in fresh.state_dicts["model"].items()
    ]
    assert all(moved)


@pytest.mark.parametrize("way", [f"{a} to {b}" for a, b in (("ddp", "fsdp2"), ("fsdp2", "ddp"))])
def test_a_checkpoint_of_one_way_goes_on_the_other_way(found: Found, way: str) -> None:
    as_one(found, f"mixture, resumed {way}", process_group_member.trained(MIXTURE, USUAL))


@pytest.mark.parametrize("way", [f"{a} to {b}" for way in WAYS for a, b in (("alone", way), (way, "alone"))])
def test_a_checkpoint_goes_on_with_another_number_of_processes(found: Found, way: str) -> None:
    as_one(found, f"mixture, resumed {way}", process_group_member.trained(MIXTURE, USUAL))


@pytest.mark.parametrize("way", WAYS)
def test_going_on_with_as_many_gives_the_bits_of_never_stopping_also_with_dropout(found: Found, way: str) -> None:
    for seen in (found.first, found.second):
        assert seen[f"dropped, resumed {way}"] == seen[f"dropped {way}"][2:]
    whole, resumed = (weights_of(found, f"{name} {way}") for name in ("dropped", "dropped, resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("way", WAYS)
def test_each_process_draws_its_own_random_numbers(found: Found, way: str) -> None:
    assert found.first[f"dropped {way}"][-1]["generators"] == 2


@pytest.mark.parametrize("way", WAYS)
def test_what_one_process_finds_not_finite_all_skip_and_all_go_back(found: Found, way: str) -> None:
    """From step 2 to 1, past its data; then on at half the rates, as one process does."""
    steps, state = process_group_member.trained(MIXTURE, replace(USUAL, spike_guard=LADDER), fault="nan")
    for seen in (found.first[f"nan {way}"], found.second[f"nan {way}"], steps):
        assert [bool(step["skipped"]) for step in seen] == [False, True, False, False, False]
        assert "went back from step 2 to 1, past 8 rows, rates × 0.5" in seen[1]["back"]
        assert math.isnan(seen[1]["terms"]["loss"])
        assert [step["share"] for step in seen] == [step["share"] for step in steps]
    as_one(found, f"nan {way}", (steps, state))


def test_when_memory_runs_out_in_one_process_all_take_half_the_rows(found: Found) -> None:
    steps, state = process_group_member.trained(MIXTURE, replace(USUAL, micro_batch_size=1, held_out=None))
    for seen in (found.first, found.second):
        assert [step["rows"] for step in seen["memory ddp"]] == [1] * 4
        for step, expected in zip(seen["memory ddp"], steps, strict=True):
            assert step["terms"] == pytest.approx(expected["terms"], rel=1e-9)
    ours = weights_of(found, "memory ddp")
    assert all(torch.allclose(ours[name], tensor, atol=1e-9) for name, tensor in state.state_dicts["model"].items())


def test_both_processes_see_the_same_steps(found: Found) -> None:
    shared = found.first.keys() & found.second.keys() - {"primitives"}
    assert len(shared) > 20
    assert all(json.dumps(found.first[name]) == json.dumps(found.second[name]) for name in shared)


def test_gradients_are_summed_and_what_the_first_says_is_heard(found: Found) -> None:
    one, other = found.first["primitives"], found.second["primitives"]
    for seen in (one, other):
        assert seen["gradients"] == [[11.0] * 3, [1.0] * 3, None]
        assert seen["any"] == [False, True]
        assert seen["said"] == [0.1]
        tensors = {"a": [[0.0, 1.0, 2.0, 3.0], "torch.float32"], "b": [0, "torch.int64"], "c": [[], "torch.bfloat16"]}
        assert seen["told"] == [tensors, {"step": 5}]
        assert seen["gathered"] == [{"cpu": [7], "1/cpu": [8]}, [{"drawn": 0}, {"drawn": 1}]]
    assert one["mine"] == [{"cpu": [7]}, {"drawn": 0}]
    assert other["mine"] == [{"cpu": [8]}, {"drawn": 1}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 1), (4, 2), (5, 2), (6, 3), (1, 3), (7, 4)])
def test_every_part_counts_once_and_nobody_has_fewer_passes_than_the_others_wait_for(count: int, size: int, way: Any) -> None:
    parts = [(n, 1 / count) for n in range(count)]
    owned = [DistributedContext(rank, size, way, CPU).shard(parts) for rank in range(size)]
    assert sorted(part for mine in owned for part in mine if part[1]) == parts
    passes = {len(mine) for mine in owned}
    assert passes == {-(-count // size)} if way == "fsdp2" else min(passes) == 1 or len(passes) < 3


def test_alone_nothing_is_changed_and_nobody_is_asked() -> None:
    parameter = nn.Parameter(torch.ones(2))
    SINGLE_PROCESS.all_reduce_grads([parameter])
    assert parameter.grad is None
    assert (
        SINGLE_PROCESS.any_rank(True),
        SINGLE_PROCESS.any_rank(False),
        SINGLE_PROCESS.broadcast_checkpoint(None),
        SINGLE_PROCESS.all_reduce([2.0]),
        SINGLE_PROCESS.broadcast([3.0]),
    ) == (
        True,
        False,
        None,
        [2.0],
        [3.0],
    )
    assert SINGLE_PROCESS.local_part(*SINGLE_PROCESS.all_gather({"cpu": torch.ones(1)}, 5)) == ({"cpu": torch.ones(1)}, 5)


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [
        (
            DistributedConfig(2, "ddp"),
            "cpu",
            "train.parallel: 2 processes, but torchrun started 3; torchrun --nproc-per-node 2 would be right",
        ),
        (None, "cpu", "train.parallel: 1 process, but torchrun started 3; {processes: 3, way: ddp} would be right"),
        (DistributedConfig(3, "fsdp2"), "mps", "train.parallel: processes talk through cpu or cuda, not mps; null would be right"),
        (DistributedConfig(3, "ddp"), "cuda", "train.parallel: process 0 of this machine has no GPU; it has 0"),
    ],
)
def test_a_crew_that_cannot_be_is_refused(wanted: Any, device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ProvenlmError) as error, init_distributed(wanted, torch.device(device)):
        pass
    assert str(error.value) == message
