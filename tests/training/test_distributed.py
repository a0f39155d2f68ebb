"""Test that several processes train as one.

Trainings run in double precision, where another order of sums differs in the fifteenth digit: a micro-batch that is left out or counted
twice, a norm of a shard instead of the whole, or a split matrix is detected at once.
"""

import json
import math
import socket
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import process_group_member
import pytest
import torch
from forked import ForkedProcess
from process_group_member import CASES, MOE, SPIKE_GUARD, TRAIN_CONFIG
from safetensors.torch import load_file
from torch import Tensor, nn

from provenlm.core.errors import ProvenlmError
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config_sections import DistributedConfig
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext, init_distributed

CPU = torch.device("cpu")
STRATEGIES = ["ddp", "fsdp2"]


class Results(NamedTuple):
    """Hold what each of two processes recorded, and the final weights of the main one."""

    first: dict[str, Any]
    second: dict[str, Any]
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Train in two processes with the environment that torchrun gives them."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        ForkedProcess(process_group_member.main, folder, **group, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    return Results(first, second, load_file(folder / "weights.safetensors"))


def weights_of(results: Results, name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in results.weights.items() if key.startswith(f"{name}/")}


@cache
def trained_alone(case: str) -> tuple[list[dict[str, Any]], Checkpoint]:
    """Train a case in a single process."""
    return process_group_member.trained(*CASES[case])


def assert_equal(results: Results, name: str, expected: tuple[list[dict[str, Any]], Checkpoint], digits: float = 1e-9) -> None:
    """Assert that the steps and weights recorded as `name` equal those of a single process."""
    steps, state = expected
    steps_ = results.first[name]
    assert steps_ and [step["num_targets"] for step in steps_] == [step["num_targets"] for step in steps[-len(steps_) :]]
    for step, alone in zip(steps_, steps[-len(steps_) :], strict=True):
        assert step["norm"] == pytest.approx(alone["norm"], rel=digits, nan_ok=True)
        assert step["norms"] == pytest.approx(alone["norms"], rel=digits, nan_ok=True)
        assert step["terms"] == pytest.approx(alone["terms"], rel=digits, nan_ok=True)
        model_metrics = [{name: metrics[0] for name, metrics in each["model_metrics"].items()} for each in (step, alone)]
        assert model_metrics[0] == pytest.approx(model_metrics[1], rel=max(digits, 1e-5))  # summed in single precision
        assert (step["val_losses"] is None) == (alone["val_losses"] is None)
        assert step["val_losses"] is None or step["val_losses"] == pytest.approx(alone["val_losses"], rel=digits)
    weights = weights_of(results, name)
    assert weights.keys() == state.state_dicts["model"].keys()
    for key, tensor in state.state_dicts["model"].items():
        assert torch.allclose(weights[key], tensor, rtol=0.0, atol=digits), key


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(results: Results, case: str, strategy: str) -> None:
    assert_equal(
        results,
        f"{case} {strategy}",
        trained_alone(case),
        1e-3 if CASES[case][1].precision != "fp32" else 1e-9,
    )


def test_the_compared_trainings_change_weights_and_clip() -> None:
    steps, state = trained_alone("mixture")
    initial = process_group_member.trained(*CASES["mixture"], until=1)[1]
    assert all(step["norm"] > 0.1 for step in steps)
    assert len({step["num_targets"] for step in steps}) > 1
    updated = [
        not torch.allclose(state.state_dicts["model"][n], t, rtol=0.0, atol=1e-4) for n, t in initial.state_dicts["model"].items()
    ]
    assert all(updated)


@pytest.mark.parametrize("strategy", [f"{a} to {b}" for a, b in (("ddp", "fsdp2"), ("fsdp2", "ddp"))])
def test_a_checkpoint_of_one_strategy_resumes_with_the_other(results: Results, strategy: str) -> None:
    assert_equal(results, f"mixture, resumed {strategy}", trained_alone("mixture"))


@pytest.mark.parametrize(
    "strategy", [f"{a} to {b}" for strategy in STRATEGIES for a, b in (("alone", strategy), (strategy, "alone"))]
)
def test_a_checkpoint_resumes_with_another_number_of_processes(results: Results, strategy: str) -> None:
    assert_equal(results, f"mixture, resumed {strategy}", trained_alone("mixture"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resuming_with_as_many_processes_gives_the_same_bits(results: Results, strategy: str) -> None:
    for steps_ in (results.first, results.second):
        assert steps_[f"dropped, resumed {strategy}"] == steps_[f"dropped {strategy}"][2:]
    full, resumed = (weights_of(results, f"{name} {strategy}") for name in ("dropped", "dropped, resumed"))
    assert full.keys() == resumed.keys()
    assert all(torch.equal(full[name], resumed[name]) for name in full)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_process_draws_different_random_numbers(results: Results, strategy: str) -> None:
    assert results.first[f"dropped {strategy}"][-1]["generators"] == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_nan_in_one_process_makes_all_skip_and_roll_back(results: Results, strategy: str) -> None:
    """All roll back from step 2 to 1, skip its data and halve the learning rates, as one process does."""
    steps, state = process_group_member.trained(MOE, replace(TRAIN_CONFIG, spike_guard=SPIKE_GUARD), fault="nan")
    for steps_ in (results.first[f"nan {strategy}"], results.second[f"nan {strategy}"], steps):
        assert [bool(step["skip_reason"]) for step in steps_] == [False, True, False, False, False]
        assert "rolled back from step 2 to 1, skipped 8 sequences, learning rates × 0.5" in steps_[1]["rollback_reason"]
        assert math.isnan(steps_[1]["terms"]["loss"])
        assert [step["lr_scale"] for step in steps_] == [step["lr_scale"] for step in steps]
    assert_equal(results, f"nan {strategy}", (steps, state))


def test_out_of_memory_in_one_process_halves_all_micro_batches(results: Results) -> None:
    steps, state = process_group_member.trained(MOE, replace(TRAIN_CONFIG, micro_batch_size=1, eval=None))
    for steps_ in (results.first, results.second):
        assert [step["micro_batch_size"] for step in steps_["memory ddp"]] == [1] * 4
        for step, expected in zip(steps_["memory ddp"], steps, strict=True):
            assert step["terms"] == pytest.approx(expected["terms"], rel=1e-9)
    weights = weights_of(results, "memory ddp")
    assert all(torch.allclose(weights[name], tensor, atol=1e-9) for name, tensor in state.state_dicts["model"].items())


def test_both_processes_record_the_same_steps(results: Results) -> None:
    shared = results.first.keys() & results.second.keys() - {"primitives"}
    assert len(shared) > 20
    assert all(json.dumps(results.first[name]) == json.dumps(results.second[name]) for name in shared)


def test_the_collectives_of_two_processes(results: Results) -> None:
    first, second = results.first["primitives"], results.second["primitives"]
    for steps_ in (first, second):
        assert steps_["gradients"] == [[11.0] * 3, [1.0] * 3, None]
        assert steps_["any"] == [False, True]
        assert steps_["broadcast"] == [0.1]
        tensors = {"a": [[0.0, 1.0, 2.0, 3.0], "torch.float32"], "b": [0, "torch.int64"], "c": [[], "torch.bfloat16"]}
        assert steps_["checkpoint"] == [tensors, {"step": 5}]
        assert steps_["gathered"] == [{"cpu": [7], "1/cpu": [8]}, [{"drawn": 0}, {"drawn": 1}]]
    assert first["local_part"] == [{"cpu": [7]}, {"drawn": 0}]
    assert second["local_part"] == [{"cpu": [8]}, {"drawn": 1}]


def test_two_processes_update_the_expert_bias_by_the_load_of_both(results: Results) -> None:
    # loads 2, 1, 0 and 0, 2, 1 are 2, 3, 1 together
    assert [part["primitives"]["expert_bias"] for part in (results.first, results.second)] == [[0.0, -0.5, 0.5]] * 2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 1), (4, 2), (5, 2), (6, 3), (1, 3), (7, 4)])
def test_micro_batches_count_once_and_fsdp_ranks_make_equal_passes(count: int, size: int, strategy: Any) -> None:
    parts = [(n, 1 / count) for n in range(count)]
    owned = [DistributedContext(rank, size, strategy, CPU).shard(parts) for rank in range(size)]
    assert sorted(part for local_parts in owned for part in local_parts if part[1]) == parts
    passes = {len(local_parts) for local_parts in owned}
    assert passes == {-(-count // size)} if strategy == "fsdp2" else min(passes) == 1 or len(passes) < 3


def test_collectives_do_nothing_in_a_single_process() -> None:
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
    ("config", "device", "message"),
    [
        (
            DistributedConfig(2, "ddp"),
            "cpu",
            "train.distributed.world_size must be 3, the number of processes that torchrun started, got 2",
        ),
        (None, "cpu", "train.distributed.world_size must be 3, the number of processes that torchrun started, got 1"),
        (DistributedConfig(3, "fsdp2"), "mps", "train.distributed must be null on device mps, which has no collectives"),
        (
            DistributedConfig(3, "ddp"),
            "cuda",
            "train.distributed.world_size: processes per machine must be <= 0, its number of GPUs, got at least 1",
        ),
    ],
)
def test_an_invalid_process_group_is_refused(config: Any, device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ProvenlmError) as error, init_distributed(config, torch.device(device)):
        pass
    assert str(error.value) == message
