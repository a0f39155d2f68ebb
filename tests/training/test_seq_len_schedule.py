"""Rows that grow: by the curve that was asked for, at the same tokens a step, and really in the batches that the net sees."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.config_sections import SeqLenScheduleConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.seq_len_schedule import seq_len_at_step, split_sequences


@pytest.mark.parametrize(
    ("growth", "expected"),
    [
        # from 8 to 64 in 8 steps; the curve, then the largest of 8 16 32 64 below it
        ("linear", [8, 8, 16, 16, 32, 32, 32, 32, 64, 64]),  # 8 15 22 29 36 43 50 57
        ("exponential", [8, 8, 8, 16, 16, 16, 32, 32, 64, 64]),  # 8 10.4 13.5 17.4 22.6 29.3 38.1 49.4
        ("cosine", [8, 8, 16, 16, 32, 32, 32, 32, 64, 64]),  # 8 10.1 16.2 25.3 36 46.7 55.8 61.9
    ],
)
def test_rows_grow_along_the_curve(growth: Any, expected: list[int]) -> None:
    assert [seq_len_at_step(SeqLenScheduleConfig(8, 8, growth), step, 64) for step in range(10)] == expected


def test_without_a_curriculum_rows_have_their_full_length() -> None:
    assert seq_len_at_step(None, 0, 64) == 64


def test_short_rows_hold_the_same_tokens_in_the_same_order() -> None:
    ids = torch.arange(17)
    short = split_sequences(Batch(torch.stack([ids[:8], ids[8:16]]), torch.stack([ids[1:9], ids[9:17]])), 4)
    assert short.inputs_BT.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert short.targets_BT.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]


def seen(tokens: Any, shape: Any, settings: Any, resume: Any = None) -> tuple[list[tuple[int, int]], list[Any], Any]:
    """(shapes that the net was shown in training, steps, the snapshot after the fifth)."""
    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    (real,) = SPEC.objectives(model, IGNORE)
    shapes, steps, state = [], [], None

    def looking(batch: Batch) -> Any:
        if model.training:
            shapes.append(tuple(batch.inputs_BT.shape))
        return real.loss(batch)

    for step in train_steps(
        model, [replace(real, loss=looking)], build_dataloader(tokens, settings), [], settings, resume, lambda: None
    ):
        steps.append((step.number, step.seq_len, step.num_positions, step.terms))
        if step.number == 5:
            snapshot = step.snapshot()
            tensors = {file: {k: v.clone() for k, v in named.items()} for file, named in snapshot.state_dicts.items()}
            state = replace(snapshot, tensors=tensors)
    return shapes, steps, state


def test_the_net_is_shown_short_rows_first_at_the_same_tokens_a_step_and_a_pass(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    shapes, steps, _ = seen(tokens, shape, settings(curriculum=SeqLenScheduleConfig(2, 8, "linear")))  # 8 rows of 8, 4 at a time
    assert [length for _, length, _, _ in steps] == [2, 2, 2, 4, 4, 4, 4, 4, 8, 8, 8, 8]
    assert {positions for _, _, positions, _ in steps} == {64}
    assert {rows * length for rows, length in shapes} == {32}
    assert [length for _, length in shapes[::2]] == [length for _, length, _, _ in steps]


def test_a_run_resumed_inside_the_curriculum_ends_the_same(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    wanted = settings(curriculum=SeqLenScheduleConfig(2, 8, "cosine"))
    _, steps, state = seen(tokens, shape, wanted)
    assert seen(tokens, shape, wanted, state)[1] == steps[5:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": "documents"}, "curriculum cuts windows"),
        ({"curriculum": SeqLenScheduleConfig(3, 8, "linear")}, "3; a divisor of length, 8, would be right"),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused(settings: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**{"curriculum": SeqLenScheduleConfig(2, 8, "linear"), **changes})
