"""Batches: a position is an integer, an order is a function of seed and epoch, and nothing is lost or shown twice."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from provenlm.core.errors import ProvenlmError
from provenlm.models.common.objective import IGNORE
from provenlm.training.config_sections import LRScheduleConfig
from provenlm.training.dataloader import (
    ConcatChunks,
    PaddedDocuments,
    build_dataloader,
    epoch_permutation,
    resolve_max_steps,
    sequence_indices,
)


def test_windows_cut_the_stream_and_ignore_the_first_token_of_a_document(split: Callable[..., Any]) -> None:
    windows = ConcatChunks(split([[2, 10, 11, 3], [2, 12, 3]]), 4, block_diagonal_mask=False)
    batch = windows.get_batch(np.arange(len(windows)))
    assert batch.inputs_BT.tolist() == [[2, 10, 11, 3], [2, 12, 0, 0]]
    assert batch.targets_BT.tolist() == [[10, 11, 3, IGNORE], [12, 3, IGNORE, IGNORE]]


def test_a_window_that_ends_with_the_stream_needs_no_padding(split: Callable[..., Any]) -> None:
    windows = ConcatChunks(split([[2, 10, 11, 12, 3]]), 2, block_diagonal_mask=False)
    assert windows.get_batch(np.arange(len(windows))).targets_BT.tolist() == [[10, 11], [12, 3]]


def test_every_token_is_a_target_once_an_epoch_but_the_first_of_each_document(split: Callable[..., Any]) -> None:
    documents = [list(range(100 * i, 100 * i + 3 + i)) for i in range(1, 8)]
    windows = ConcatChunks(split(documents), 5, block_diagonal_mask=False)
    drawn = [windows.get_batch(sequence_indices(at, 3, len(windows), 4)) for at in range(0, 3 * len(windows), 3)]  # three epochs
    seen = Counter(t for batch in drawn for t in batch.targets_BT.flatten().tolist() if t != IGNORE)
    assert seen == {token: 3 for document in documents for token in document[1:]}


def test_packed_windows_number_the_document_of_each_input(split: Callable[..., Any]) -> None:
    windows = ConcatChunks(split([[2, 10, 11, 3], [2, 12, 3]]), 5, block_diagonal_mask=True)
    batch = windows.get_batch(np.arange(len(windows)))
    assert batch.inputs_BT.tolist() == [[2, 10, 11, 3, 2], [12, 0, 0, 0, 0]]
    assert batch.documents_BT is not None
    first, second = batch.documents_BT
    assert first.tolist() == [1, 1, 1, 1, 2] and second[0] == 2


def test_rows_of_one_document_each_need_no_numbers(split: Callable[..., Any]) -> None:
    windows = ConcatChunks(split([[2, 10, 11, 3], [2, 12, 13, 3]]), 4, block_diagonal_mask=True)
    assert windows.get_batch(np.array([0])).documents_BT is None


def test_documents_are_padded_and_their_padding_carries_no_loss(split: Callable[..., Any]) -> None:
    batch = PaddedDocuments(split([[2, 10, 3], [2, 11, 12, 13, 3]]), 0).get_batch(np.array([0, 1]))
    assert batch.inputs_BT.tolist() == [[2, 10, 0, 0], [2, 11, 12, 13]]
    assert batch.targets_BT.tolist() == [[10, 3, IGNORE, IGNORE], [11, 12, 13, 3]]


def test_an_epoch_draws_every_row_once_in_an_order_of_its_own() -> None:
    first, second = sequence_indices(0, 50, 50, 7), sequence_indices(50, 50, 50, 7)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()


def test_what_is_drawn_depends_on_the_position_alone() -> None:
    whole = sequence_indices(0, 40, 13, 3)
    epoch_permutation.cache_clear()
    assert sequence_indices(29, 11, 13, 3).tolist() == whole[29:].tolist()
    assert sequence_indices(0, 40, 13, 4).tolist() != whole.tolist()


def test_held_out_rows_are_the_same_whatever_was_drawn_before(tokens: Any, settings: Callable[..., Any]) -> None:
    batches = build_dataloader(tokens, settings())
    before = [batch.targets_BT.tolist() for batch in batches.val_batches]
    batches.batch_at(0, 100)
    assert [batch.targets_BT.tolist() for batch in build_dataloader(tokens, settings()).val_batches] == before
    assert sum(map(len, before)) == 4


def test_documents_without_a_pad_token_are_refused(tokens: Any, settings: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match="need a codec with a 'pad' token"):
        build_dataloader(replace(tokens, special_tokens={}), settings(batches="documents", length=16))


def test_documents_longer_than_a_row_are_refused_with_the_length_that_would_do(tokens: Any, settings: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match="need a length of 11"):
        build_dataloader(tokens, settings(batches="documents", length=10))
    assert len(build_dataloader(tokens, settings(batches="documents", length=11)).sequences) == 24


def test_an_empty_validation_split_is_refused_where_it_is_asked_for(tokens: Any, split: Any, settings: Callable[..., Any]) -> None:
    empty = replace(tokens, val=split([]))
    with pytest.raises(ProvenlmError, match="validation split is empty"):
        build_dataloader(empty, settings())
    assert build_dataloader(empty, settings(held_out=None)).val_batches == []


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({"epochs": 2.0}, 2 * 3),  # 24 documents a row each, 8 a step
        ({"epochs": 0.5}, 2),  # 1.5 steps
        ({"tokens": 144.0}, 3),  # one epoch: the documents have 3 to 12 tokens, all but the first of each are targets
        ({"tokens": 145.0}, 4),
        ({"tokens": 1.0}, 1),
    ],
)
def test_epochs_and_tokens_become_steps_of_the_training_split(
    tokens: Any, settings: Callable[..., Any], asked: dict[str, float], steps: int
) -> None:
    assert sum(len(tokens.train.ids[a + 1 : b]) for a, b in pairwise(tokens.train.starts)) == 144
    wanted = settings(steps=None, batches="documents", length=12, schedule=LRScheduleConfig(1, 0, "linear", 0.0), **asked)
    assert resolve_max_steps(wanted, tokens).total_steps == steps


def test_the_targets_asked_for_are_really_trained_on(tokens: Any, settings: Callable[..., Any]) -> None:
    wanted = resolve_max_steps(settings(steps=None, tokens=1000.0), tokens)
    batches = build_dataloader(tokens, wanted)
    seen = [int((batches.batch_at(8 * n, 8).targets_BT != IGNORE).sum()) for n in range(wanted.total_steps)]
    assert sum(seen[:-2]) < 1000 < sum(seen) + max(seen)


def test_a_schedule_longer_than_the_epochs_come_to_is_refused(tokens: Any, settings: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match="train: schedule: warmup and hold take more than the 1 steps"):
        resolve_max_steps(settings(steps=None, epochs=0.1), tokens)
