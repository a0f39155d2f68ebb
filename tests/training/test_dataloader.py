"""Test the data loader: packing, shuffling, and durations in steps."""

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


def test_chunks_ignore_the_first_token_of_a_document(make_split: Callable[..., Any]) -> None:
    chunks = ConcatChunks(make_split([[2, 10, 11, 3], [2, 12, 3]]), 4, block_diagonal_mask=False)
    batch = chunks.get_batch(np.arange(len(chunks)))
    assert batch.inputs_BT.tolist() == [[2, 10, 11, 3], [2, 12, 0, 0]]
    assert batch.targets_BT.tolist() == [[10, 11, 3, IGNORE], [12, 3, IGNORE, IGNORE]]


def test_a_chunk_that_ends_with_the_stream_needs_no_padding(make_split: Callable[..., Any]) -> None:
    chunks = ConcatChunks(make_split([[2, 10, 11, 12, 3]]), 2, block_diagonal_mask=False)
    assert chunks.get_batch(np.arange(len(chunks))).targets_BT.tolist() == [[10, 11], [12, 3]]


def test_every_token_but_the_first_is_a_target_once_per_epoch(make_split: Callable[..., Any]) -> None:
    documents = [list(range(100 * i, 100 * i + 3 + i)) for i in range(1, 8)]
    chunks = ConcatChunks(make_split(documents), 5, block_diagonal_mask=False)
    batches = [chunks.get_batch(sequence_indices(at, 3, len(chunks), 4)) for at in range(0, 3 * len(chunks), 3)]  # three epochs
    counts = Counter(t for batch in batches for t in batch.targets_BT.flatten().tolist() if t != IGNORE)
    assert counts == {token: 3 for document in documents for token in document[1:]}


def test_packed_chunks_hold_the_document_of_each_input(make_split: Callable[..., Any]) -> None:
    chunks = ConcatChunks(make_split([[2, 10, 11, 3], [2, 12, 3]]), 5, block_diagonal_mask=True)
    batch = chunks.get_batch(np.arange(len(chunks)))
    assert batch.inputs_BT.tolist() == [[2, 10, 11, 3, 2], [12, 0, 0, 0, 0]]
    assert batch.documents_BT is not None
    first, second = batch.documents_BT
    assert first.tolist() == [1, 1, 1, 1, 2] and second[0] == 2


def test_sequences_of_one_document_need_no_document_ids(make_split: Callable[..., Any]) -> None:
    chunks = ConcatChunks(make_split([[2, 10, 11, 3], [2, 12, 13, 3]]), 4, block_diagonal_mask=True)
    assert chunks.get_batch(np.array([0])).documents_BT is None


def test_padding_of_documents_carries_no_loss(make_split: Callable[..., Any]) -> None:
    batch = PaddedDocuments(make_split([[2, 10, 3], [2, 11, 12, 13, 3]]), 0).get_batch(np.array([0, 1]))
    assert batch.inputs_BT.tolist() == [[2, 10, 0, 0], [2, 11, 12, 13]]
    assert batch.targets_BT.tolist() == [[10, 3, IGNORE, IGNORE], [11, 12, 13, 3]]


def test_each_epoch_is_a_different_permutation() -> None:
    first, second = sequence_indices(0, 50, 50, 7), sequence_indices(50, 50, 50, 7)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()


def test_drawn_indices_depend_on_the_position_alone() -> None:
    full = sequence_indices(0, 40, 13, 3)
    epoch_permutation.cache_clear()
    assert sequence_indices(29, 11, 13, 3).tolist() == full[29:].tolist()
    assert sequence_indices(0, 40, 13, 4).tolist() != full.tolist()


def test_the_validation_batches_do_not_depend_on_what_was_drawn(dataset: Any, make_config: Callable[..., Any]) -> None:
    dataloader = build_dataloader(dataset, make_config())
    before = [batch.targets_BT.tolist() for batch in dataloader.val_batches]
    dataloader.batch_at(0, 100)
    assert [batch.targets_BT.tolist() for batch in build_dataloader(dataset, make_config()).val_batches] == before
    assert sum(map(len, before)) == 4


def test_documents_without_a_pad_token_are_refused(dataset: Any, make_config: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match="data_packing must be concat_and_chunk or packed, got padded: .* no 'pad' token"):
        build_dataloader(replace(dataset, special_tokens={}), make_config(data_packing="padded", seq_len=16))


def test_documents_longer_than_seq_len_are_refused(dataset: Any, make_config: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match=r"train.seq_len must be >= 11 .*the longest document has 12 tokens.*, got 10"):
        build_dataloader(dataset, make_config(data_packing="padded", seq_len=10))
    assert len(build_dataloader(dataset, make_config(data_packing="padded", seq_len=11)).sequences) == 24


def test_eval_with_an_empty_validation_split_is_refused(dataset: Any, make_split: Any, make_config: Callable[..., Any]) -> None:
    empty = replace(dataset, val=make_split([]))
    with pytest.raises(ProvenlmError, match="train.eval must be null, because the validation split is empty"):
        build_dataloader(empty, make_config())
    assert build_dataloader(empty, make_config(eval=None)).val_batches == []


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ({"epochs": 2.0}, 2 * 3),  # 24 documents a row each, 8 a step
        ({"epochs": 0.5}, 2),  # 1.5 steps
        ({"max_tokens": 144.0}, 3),  # one epoch: the documents have 3 to 12 tokens, all but the first of each are targets
        ({"max_tokens": 145.0}, 4),
        ({"max_tokens": 1.0}, 1),
    ],
)
def test_epochs_and_tokens_are_converted_to_steps(
    dataset: Any, make_config: Callable[..., Any], duration: dict[str, float], steps: int
) -> None:
    assert sum(len(dataset.train.ids[a + 1 : b]) for a, b in pairwise(dataset.train.doc_offsets)) == 144
    config = make_config(
        max_steps=None, data_packing="padded", seq_len=12, lr_schedule=LRScheduleConfig(1, 0, "linear", 0.0), **duration
    )
    assert resolve_max_steps(config, dataset).total_steps == steps


def test_max_tokens_targets_are_trained_on(dataset: Any, make_config: Callable[..., Any]) -> None:
    config = resolve_max_steps(make_config(max_steps=None, max_tokens=1000.0), dataset)
    dataloader = build_dataloader(dataset, config)
    counts = [int((dataloader.batch_at(8 * n, 8).targets_BT != IGNORE).sum()) for n in range(config.total_steps)]
    assert sum(counts[:-2]) < 1000 < sum(counts) + max(counts)


def test_a_schedule_longer_than_the_epochs_is_refused(dataset: Any, make_config: Callable[..., Any]) -> None:
    with pytest.raises(ProvenlmError, match=r"train.lr_schedule.warmup_steps \+ .* must be <= 1 steps, got 2 \(epochs: 0.1\)"):
        resolve_max_steps(make_config(max_steps=None, epochs=0.1), dataset)
