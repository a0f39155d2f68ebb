"""Test the sequence-length schedule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.config_sections import SeqLenScheduleConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.seq_len_schedule import seq_len_at_step, split_sequences


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # from 8 to 64 in 8 steps; the curve, then the largest of 8 16 32 64 below it
        ("linear", [8, 8, 16, 16, 32, 32, 32, 32, 64, 64]),  # 8 15 22 29 36 43 50 57
        ("exponential", [8, 8, 8, 16, 16, 16, 32, 32, 64, 64]),  # 8 10.4 13.5 17.4 22.6 29.3 38.1 49.4
        ("cosine", [8, 8, 16, 16, 32, 32, 32, 32, 64, 64]),  # 8 10.1 16.2 25.3 36 46.7 55.8 61.9
    ],
)
def test_sequences_grow_along_the_schedule(shape: Any, expected: list[int]) -> None:
    assert [seq_len_at_step(SeqLenScheduleConfig(8, 8, shape), step, 64) for step in range(10)] == expected


def test_without_a_schedule_sequences_have_full_length() -> None:
    assert seq_len_at_step(None, 0, 64) == 64


def test_split_sequences_hold_the_same_tokens_in_order() -> None:
    ids = torch.arange(17)
    short = split_sequences(TokenBatch(torch.stack([ids[:8], ids[8:16]]), torch.stack([ids[1:9], ids[9:17]])), 4)
    assert short.inputs_BT.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert short.targets_BT.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]


def run(dataset: Any, model_config: Any, config: Any, resume: Any = None) -> tuple[list[tuple[int, int]], list[Any], Any]:
    """Return (shapes of the training batches, steps, the snapshot after step 5)."""
    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    (real,) = SPEC.objectives(model, IGNORE)
    shapes, steps, state = [], [], None

    def recording_loss(batch: TokenBatch) -> Any:
        if model.training:
            shapes.append(tuple(batch.inputs_BT.shape))
        return real.loss(batch)

    for step in train_steps(
        model, [replace(real, loss=recording_loss)], build_dataloader(dataset, config), [], config, resume, lambda: None
    ):
        steps.append((step.number, step.seq_len, step.num_positions, step.terms))
        if step.number == 5:
            snapshot = step.snapshot()
            tensors = {file: {k: v.clone() for k, v in named.items()} for file, named in snapshot.state_dicts.items()}
            state = replace(snapshot, state_dicts=tensors)
    return shapes, steps, state


def test_short_sequences_come_first_with_the_same_tokens_per_step(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    shapes, steps, _ = run(
        dataset, model_config, make_config(seq_len_schedule=SeqLenScheduleConfig(2, 8, "linear"))
    )  # 8 rows of 8, 4 at a time
    assert [length for _, length, _, _ in steps] == [2, 2, 2, 4, 4, 4, 4, 4, 8, 8, 8, 8]
    assert {positions for _, _, positions, _ in steps} == {64}
    assert {rows * length for rows, length in shapes} == {32}
    assert [length for _, length in shapes[::2]] == [length for _, length, _, _ in steps]


def test_a_run_resumed_during_the_seq_len_schedule_ends_the_same(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    config = make_config(seq_len_schedule=SeqLenScheduleConfig(2, 8, "cosine"))
    _, steps, state = run(dataset, model_config, config)
    assert run(dataset, model_config, config, state)[1] == steps[5:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_packing": "padded"}, "seq_len_schedule must be null with data_packing: padded"),
        (
            {"seq_len_schedule": SeqLenScheduleConfig(3, 8, "linear")},
            "seq_len_schedule.start must be a divisor of seq_len, 8, got 3",
        ),
    ],
)
def test_an_invalid_seq_len_schedule_is_refused(make_config: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**{"seq_len_schedule": SeqLenScheduleConfig(2, 8, "linear"), **changes})
