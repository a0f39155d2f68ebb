"""Memory that runs out: fewer rows at a time, the same batch, the same weights as if the rows had been so few from the start."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from provenlm.core.errors import UserError
from provenlm.nets.moe.net import FACE
from provenlm.training import randomness
from provenlm.training.batches import batches_for
from provenlm.training.fit import fit
from provenlm.training.objective import IGNORE, Batch
from provenlm.training.room import Room, out_of_memory
from provenlm.training.step import Step


def trained(
    tokens: Any, shape: Any, settings: Any, most: int, resume: Any = None, eval_most: int = 99, until: int = 99
) -> tuple[nn.Module, list[Step], Any]:
    """Train with a memory that holds `most` rows of training and `eval_most` of evaluation; (net, steps, last snapshot)."""
    randomness.seed_all(3)
    model = FACE.build(shape, tokens.vocabulary)
    (real,) = FACE.objectives(model, IGNORE)

    def bounded(batch: Batch) -> Mapping[str, Tensor]:
        terms = real.loss(batch)  # the dropout of what fails has drawn its numbers by then
        if len(batch.inputs_BT) > (most if model.training else eval_most):
            raise torch.OutOfMemoryError("planted")
        return terms

    seen, state = [], None
    for step in fit(model, [replace(real, loss=bounded)], batches_for(tokens, settings), [], settings, resume, lambda: None):
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
    assert [step.micro_batch for step in steps] == [2] * 12
    assert [step.targets for step in steps] == [step.targets for step in expected]
    assert [step.terms for step in steps] == [step.terms for step in expected]
    assert weights(model) == weights(small)


def test_evaluation_that_runs_out_of_memory_does_not_shrink_training(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    _, steps, _ = trained(tokens, shape, settings(), most=99, eval_most=1)
    _, expected, _ = trained(tokens, shape, settings(), most=99)
    assert {step.micro_batch for step in steps} == {4}
    assert [step.terms for step in steps] == [step.terms for step in expected]
    held = [(a.held_out, b.held_out) for a, b in zip(steps, expected, strict=True) if a.held_out and b.held_out]
    assert len(held) == 4
    for one, other in held:
        assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], rel=1e-5)


def test_a_resumed_run_remembers_how_much_fitted(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    """The new process has more memory, and yet must give the same bits."""
    wanted = settings(batch=8, micro_batch=8)
    whole, steps, _ = trained(tokens, shape, wanted, most=3)
    _, _, state = trained(tokens, shape, wanted, most=3, until=5)
    resumed, rest, _ = trained(tokens, shape, wanted, most=99, resume=state)
    assert [step.micro_batch for step in rest] == [2] * 7
    assert [step.terms for step in rest] == [step.terms for step in steps[5:]]
    assert weights(resumed) == weights(whole)


def test_memory_for_not_even_one_row_is_the_users_to_mend(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="out of memory with one row at a time"):
        trained(tokens, shape, settings(), most=0)


def test_other_errors_are_not_taken_for_it() -> None:
    def broken(rows: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Room(4).fit(broken, lambda: None)


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert out_of_memory(caught.value)
