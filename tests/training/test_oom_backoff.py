"""Test the out-of-memory back-off and the automatic micro-batch size."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from provenlm.core.errors import ProvenlmError
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.moe.spec import SPEC
from provenlm.training import memory, rng_state
from provenlm.training.auto_batch_size import largest_fitting_batch, measure_peak_bytes
from provenlm.training.dataloader import build_dataloader
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext
from provenlm.training.loop import train_steps
from provenlm.training.oom_backoff import OomBackoff, is_oom_error
from provenlm.training.step import StepResult


def trained(
    dataset: Any, model_config: Any, config: Any, max_rows: int, resume: Any = None, eval_max_rows: int = 99, until: int = 99
) -> tuple[nn.Module, list[StepResult], Any]:
    """Train with memory for `max_rows` sequences, `eval_max_rows` in evaluation; return (model, steps, snapshot)."""
    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    (real,) = SPEC.objectives(model, IGNORE)

    def bounded(batch: TokenBatch) -> Mapping[str, Tensor]:
        terms = real.loss(batch)  # dropout has drawn its random numbers before the failure
        if len(batch.inputs_BT) > (max_rows if model.training else eval_max_rows):
            raise torch.OutOfMemoryError("planted")
        return terms

    steps, state = [], None
    for step in train_steps(
        model, [replace(real, loss=bounded)], build_dataloader(dataset, config), [], config, resume, lambda: None
    ):
        steps.append(step)
        if step.number == until:
            state = step.snapshot()
            break
    return model, steps, state


def weights(model: nn.Module) -> list[Any]:
    return [p.tolist() for p in model.parameters()]


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_weights(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    model, steps, _ = trained(dataset, model_config, make_config(global_batch_size=8, micro_batch_size=8), max_rows=3)
    small, expected, _ = trained(dataset, model_config, make_config(global_batch_size=8, micro_batch_size=2), max_rows=99)
    assert [step.micro_batch_size for step in steps] == [2] * 12
    assert [step.num_targets for step in steps] == [step.num_targets for step in expected]
    assert [step.terms for step in steps] == [step.terms for step in expected]
    assert weights(model) == weights(small)


def test_an_out_of_memory_evaluation_keeps_the_training_micro_batch(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    _, steps, _ = trained(dataset, model_config, make_config(), max_rows=99, eval_max_rows=1)
    _, expected, _ = trained(dataset, model_config, make_config(), max_rows=99)
    assert {step.micro_batch_size for step in steps} == {4}
    assert [step.terms for step in steps] == [step.terms for step in expected]
    val_losses = [(a.val_losses, b.val_losses) for a, b in zip(steps, expected, strict=True) if a.val_losses and b.val_losses]
    assert len(val_losses) == 4
    for first, second in val_losses:
        assert first["cross_entropy"] == pytest.approx(second["cross_entropy"], rel=1e-5)


def test_a_resumed_run_keeps_the_reduced_micro_batch(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    """The new process has more memory and must give the same bits."""
    config = make_config(global_batch_size=8, micro_batch_size=8)
    full, steps, _ = trained(dataset, model_config, config, max_rows=3)
    _, _, state = trained(dataset, model_config, config, max_rows=3, until=5)
    resumed, rest, _ = trained(dataset, model_config, config, max_rows=99, resume=state)
    assert [step.micro_batch_size for step in rest] == [2] * 7
    assert [step.terms for step in rest] == [step.terms for step in steps[5:]]
    assert weights(resumed) == weights(full)


def test_memory_below_one_sequence_is_a_config_error(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match="out of memory with micro_batch_size 1"):
        trained(dataset, model_config, make_config(), max_rows=0)


def test_other_errors_are_not_taken_for_out_of_memory() -> None:
    def broken(rows: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        OomBackoff(4).run(broken, lambda: None, SINGLE_PROCESS)


def test_an_out_of_memory_error_of_the_cpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_oom_error(caught.value)


@pytest.mark.parametrize(
    ("each", "free", "batch", "rows"),
    [
        (10, 10_000, 256, 64),  # never more than 64
        (10, 10_000, 16, 16),  # nor than the batch
        (10, 10_000, 12, 8),
        (10, 10_000, 3, 3),
        (10, 400, 256, 32),  # 320 of 400 bytes may be taken
        (10, 399, 256, 16),
        (200, 400, 256, 4),  # 4 are tried in any case
    ],
)
def test_the_largest_micro_batch_that_fits_is_taken(each: int, free: int, batch: int, rows: int) -> None:
    tried: list[int] = []
    assert largest_fitting_batch(lambda n: (tried.append(n), each * n)[1], free, batch) == rows
    assert tried[-1] == rows
    assert all(each * n <= 0.8 * free for n in tried[1:])


def test_the_memory_of_a_pass_is_measured_and_freed() -> None:
    blocks: list[Tensor] = []
    bytes_ = measure_peak_bytes(
        lambda: blocks.append(torch.ones(512 * 2**18)), blocks.clear, torch.device("cpu")
    )  # 512 MiB, more than ever before
    assert bytes_ is not None and 500 * 2**20 < bytes_ < 1500 * 2**20
    assert blocks == []


def test_free_memory_is_at_most_that_of_the_machine() -> None:
    free = memory.memory_free(torch.device("cpu"))
    assert 2**20 < free < 2**50
    assert free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("data_packing", ["concat_and_chunk", "padded"])
def test_finding_the_micro_batch_does_not_change_the_training(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], data_packing: str
) -> None:
    """The trial must not leave random numbers drawn or router statistics behind."""
    biased = replace(model_config, load_balancing="bias")
    common = {"global_batch_size": 8, "data_packing": data_packing, "seq_len": 12}
    automatic, steps, _ = trained(dataset, biased, make_config(micro_batch_size="auto", **common), max_rows=99)
    configured, expected, _ = trained(dataset, biased, make_config(micro_batch_size=8, **common), max_rows=99)
    assert [step.micro_batch_size for step in steps] == [8] * 12
    assert [(step.terms, step.model_metrics) for step in steps] == [(step.terms, step.model_metrics) for step in expected]
    assert weights(automatic) == weights(configured)


def test_an_automatic_micro_batch_fits_and_survives_a_resume(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    config = make_config(global_batch_size=16, micro_batch_size="auto")
    full, steps, _ = trained(dataset, model_config, config, max_rows=5)
    assert [step.micro_batch_size for step in steps] == [4] * 12
    assert {step.num_sequences for step in steps} == {16}
    _, _, state = trained(dataset, model_config, config, max_rows=5, until=5)
    resumed, rest, _ = trained(dataset, model_config, config, max_rows=99, resume=state)
    assert [(step.micro_batch_size, step.terms) for step in rest] == [(step.micro_batch_size, step.terms) for step in steps[5:]]
    assert weights(resumed) == weights(full)


def test_out_of_memory_with_fsdp_is_a_config_error() -> None:
    def out_of_memory(rows: int) -> None:
        raise torch.OutOfMemoryError("planted")

    with pytest.raises(ProvenlmError, match="train.micro_batch_size must be < 4, or distributed.world_size larger"):
        OomBackoff(4).run(out_of_memory, lambda: None, DistributedContext(0, 2, "fsdp2", torch.device("cpu")))
