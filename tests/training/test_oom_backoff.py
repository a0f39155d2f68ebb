"""Memory that runs out: fewer rows at a time, the same batch, the same weights as if the rows had been so few from the start."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from provenlm.core.errors import ProvenlmError
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.moe.spec import SPEC
from provenlm.training import memory, rng_state
from provenlm.training.auto_batch_size import largest_fitting_batch, measure_peak_bytes
from provenlm.training.dataloader import build_dataloader
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext
from provenlm.training.loop import train_steps
from provenlm.training.oom_backoff import OomBackoff, is_oom_error
from provenlm.training.step import StepResult


def trained(
    tokens: Any, shape: Any, settings: Any, most: int, resume: Any = None, eval_most: int = 99, until: int = 99
) -> tuple[nn.Module, list[StepResult], Any]:
    """Train with a memory that holds `most` rows of training and `eval_most` of evaluation; (net, steps, last snapshot)."""
    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    (real,) = SPEC.objectives(model, IGNORE)

    def bounded(batch: Batch) -> Mapping[str, Tensor]:
        terms = real.loss(batch)  # the dropout of what fails has drawn its numbers by then
        if len(batch.inputs_BT) > (most if model.training else eval_most):
            raise torch.OutOfMemoryError("planted")
        return terms

    seen, state = [], None
    for step in train_steps(
        model, [replace(real, loss=bounded)], build_dataloader(tokens, settings), [], settings, resume, lambda: None
    ):
        seen.append(step)
        if step.number == until:
            state = step.snapshot()
            break
    return model, seen, state


def weights(model: nn.Module) -> list[Any]:
    return [p.tolist() for p in model.parameters()]


def test_out_of_memory_it_takes_half_the_rows_and_ends_as_if_it_had_from_the_start(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    model, steps, _ = trained(tokens, shape, settings(batch=8, micro_batch=8), most=3)
    small, expected, _ = trained(tokens, shape, settings(batch=8, micro_batch=2), most=99)
    assert [step.micro_batch_size for step in steps] == [2] * 12
    assert [step.num_targets for step in steps] == [step.num_targets for step in expected]
    assert [step.terms for step in steps] == [step.terms for step in expected]
    assert weights(model) == weights(small)


def test_evaluation_that_runs_out_of_memory_does_not_shrink_training(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    _, steps, _ = trained(tokens, shape, settings(), most=99, eval_most=1)
    _, expected, _ = trained(tokens, shape, settings(), most=99)
    assert {step.micro_batch_size for step in steps} == {4}
    assert [step.terms for step in steps] == [step.terms for step in expected]
    held = [(a.val_losses, b.val_losses) for a, b in zip(steps, expected, strict=True) if a.val_losses and b.val_losses]
    assert len(held) == 4
    for one, other in held:
        assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], rel=1e-5)


def test_a_resumed_run_remembers_how_much_fitted(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    """The new process has more memory, and yet must give the same bits."""
    wanted = settings(batch=8, micro_batch=8)
    whole, steps, _ = trained(tokens, shape, wanted, most=3)
    _, _, state = trained(tokens, shape, wanted, most=3, until=5)
    resumed, rest, _ = trained(tokens, shape, wanted, most=99, resume=state)
    assert [step.micro_batch_size for step in rest] == [2] * 7
    assert [step.terms for step in rest] == [step.terms for step in steps[5:]]
    assert weights(resumed) == weights(whole)


def test_memory_for_not_even_one_row_is_the_users_to_mend(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match="out of memory with one row at a time"):
        trained(tokens, shape, settings(), most=0)


def test_other_errors_are_not_taken_for_it() -> None:
    def broken(rows: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        OomBackoff(4).run(broken, lambda: None, SINGLE_PROCESS)


def test_the_allocator_of_the_cpu_is_understood() -> None:
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
def test_the_most_rows_whose_measured_memory_fits_are_taken(each: int, free: int, batch: int, rows: int) -> None:
    tried: list[int] = []
    assert largest_fitting_batch(lambda n: (tried.append(n), each * n)[1], free, batch) == rows
    assert tried[-1] == rows
    assert all(each * n <= 0.8 * free for n in tried[1:])


def test_what_a_pass_holds_is_measured_and_let_go() -> None:
    held: list[Tensor] = []
    bytes_ = measure_peak_bytes(
        lambda: held.append(torch.ones(512 * 2**18)), held.clear, torch.device("cpu")
    )  # 512 MiB, more than ever before
    assert bytes_ is not None and 500 * 2**20 < bytes_ < 1500 * 2**20
    assert held == []


def test_a_container_leaves_no_more_than_the_machine_has() -> None:
    free = memory.memory_free(torch.device("cpu"))
    assert 2**20 < free < 2**50
    assert free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("batches", ["windows", "documents"])
def test_a_found_micro_batch_leaves_no_trace_of_the_trial(
    tokens: Any, shape: Any, settings: Callable[..., Any], batches: str
) -> None:
    """Dropout drew numbers, and routers noted where tokens went: the weights are those of the same number set by hand."""
    biased = replace(shape, load_balancing="bias")
    common = {"batch": 8, "batches": batches, "length": 12}
    found, steps, _ = trained(tokens, biased, settings(micro_batch="auto", **common), most=99)
    set_, expected, _ = trained(tokens, biased, settings(micro_batch=8, **common), most=99)
    assert [step.micro_batch_size for step in steps] == [8] * 12
    assert [(step.terms, step.model_metrics) for step in steps] == [(step.terms, step.model_metrics) for step in expected]
    assert weights(found) == weights(set_)


def test_a_found_micro_batch_is_what_fits_and_is_kept_across_a_resume(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    wanted = settings(batch=16, micro_batch="auto")
    whole, steps, _ = trained(tokens, shape, wanted, most=5)
    assert [step.micro_batch_size for step in steps] == [4] * 12
    assert {step.num_sequences for step in steps} == {16}
    _, _, state = trained(tokens, shape, wanted, most=5, until=5)
    resumed, rest, _ = trained(tokens, shape, wanted, most=99, resume=state)
    assert [(step.micro_batch_size, step.terms) for step in rest] == [(step.micro_batch_size, step.terms) for step in steps[5:]]
    assert weights(resumed) == weights(whole)


def test_where_the_others_wait_in_the_middle_of_it_running_out_of_memory_is_the_end() -> None:
    def full(rows: int) -> None:
        raise torch.OutOfMemoryError("planted")

    with pytest.raises(
        ProvenlmError, match="with 4 rows at a time, which fsdp2 cannot try again with fewer; a smaller train.micro_batch"
    ):
        OomBackoff(4).run(full, lambda: None, DistributedContext(0, 2, "fsdp2", torch.device("cpu")))
