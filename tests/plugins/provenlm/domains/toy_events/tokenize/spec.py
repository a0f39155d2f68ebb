"""Tokenize event files with a tokenizer type and batches of their own."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core import io
from provenlm.core.errors import DataError
from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.records import Record
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.objective import IGNORE

TOKENIZER_TYPE = "toy_events"
HEADER = b"\x93EVT"
SPECIAL_TOKENS = {"pad": 0, "bos": 1, "eos": 2}
FIRST_BYTE = len(SPECIAL_TOKENS)  # ids of single bytes, for events that training does not have
FIRST_EVENT = FIRST_BYTE + 256


@dataclass(frozen=True)
class ToyEventsTokenizeConfig:
    """Configure the fraction of records held out for validation."""

    val_fraction: float = 0.25


class EventTokenizer:
    """Map events of the training split to one id each, and all others to two byte ids."""

    def __init__(self, events: Sequence[bytes]) -> None:
        self.events = list(events)
        self.vocab_size = FIRST_EVENT + len(self.events)
        self.special_tokens: Mapping[str, int] = SPECIAL_TOKENS
        self.token_classes: Mapping[str, NDArray[np.int64]] = {}
        self._ids = {event: FIRST_EVENT + index for index, event in enumerate(self.events)}

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Encode the events of each record."""
        return [np.array(self._encode_events(record.content[len(HEADER) :]), np.uint32) for record in records]

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode ids to an event file; special tokens are skipped."""
        pieces = [self._piece(int(token_id)) for token_id in ids if token_id >= FIRST_BYTE]
        return b"".join([HEADER, *pieces])

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt of events in hexadecimal digits, with the beginning of a record before it."""
        return [SPECIAL_TOKENS["bos"], *self._encode_events(bytes.fromhex(text))]

    def describe(self, ids: Sequence[int]) -> str:
        """Return the events in hexadecimal digits."""
        return self.decode(ids)[len(HEADER) :].hex()

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        """Count the byte ids."""
        return int(np.sum((ids >= FIRST_BYTE) & (ids < FIRST_EVENT)))

    def save(self, folder: Path) -> None:
        """Write `metadata.json` to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        io.write_json(folder / "metadata.json", {"type": TOKENIZER_TYPE, "events": [event.hex() for event in self.events]})

    def _encode_events(self, content: bytes) -> list[int]:
        ids: list[int] = []
        for start in range(0, len(content), 2):
            event = content[start : start + 2]
            ids += [self._ids[event]] if event in self._ids else [FIRST_BYTE + byte for byte in event]
        return ids

    def _piece(self, token_id: int) -> bytes:
        return bytes([token_id - FIRST_BYTE]) if token_id < FIRST_EVENT else self.events[token_id - FIRST_EVENT]


def train_tokenizer(config: ToyEventsTokenizeConfig, read_records: Callable[[], Iterable[Record]]) -> EventTokenizer:
    """Collect the events of all records."""
    contents = [record.content[len(HEADER) :] for record in read_records()]
    return EventTokenizer(sorted({content[start : start + 2] for content in contents for start in range(0, len(content), 2)}))


def load_tokenizer(folder: Path) -> EventTokenizer:
    """Load a saved tokenizer. Raises DataError for another type."""
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    if metadata["type"] != TOKENIZER_TYPE:
        raise DataError(f"{folder.as_posix()}: type must be {TOKENIZER_TYPE!r}, got {metadata['type']!r}")
    return EventTokenizer([bytes.fromhex(event) for event in metadata["events"]])


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Hold whole records, one a sequence, with the position of every event: a tensor that next-token batches lack."""

    inputs_BT: Tensor
    targets_BT: Tensor
    event_positions_BT: Tensor

    @property
    def num_sequences(self) -> int:
        """Return the number of sequences."""
        return self.inputs_BT.shape[0]

    @property
    def seq_len(self) -> int:
        """Return the number of positions of a sequence."""
        return self.inputs_BT.shape[1]

    @property
    def num_targets(self) -> int:
        """Return the number of targets that count."""
        return int((self.targets_BT != IGNORE).sum())

    def map(self, fn: Callable[[Tensor], Tensor]) -> "EventBatch":
        """Return the batch with `fn` applied to each of its tensors."""
        return replace(
            self, inputs_BT=fn(self.inputs_BT), targets_BT=fn(self.targets_BT), event_positions_BT=fn(self.event_positions_BT)
        )

    def select(self, sequences: slice) -> "EventBatch":
        """Return some of the sequences."""
        return self.map(lambda tensor_BT: tensor_BT[sequences])


@dataclass(frozen=True)
class EventSequences:
    """Give each record a sequence, cut or padded to `seq_len`."""

    split: DatasetSplit
    seq_len: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.split.doc_offsets) - 1

    def get_batch(self, indices: NDArray[np.int64]) -> EventBatch:
        """Return the records at `indices`; padding carries no loss."""
        inputs_BT = np.full((len(indices), self.seq_len), self.pad_id, np.int64)
        targets_BT = np.full((len(indices), self.seq_len), IGNORE, np.int64)
        for row, index in enumerate(indices):
            ids = self.split.ids[self.split.doc_offsets[index] : self.split.doc_offsets[index + 1]][: self.seq_len + 1]
            inputs_BT[row, : len(ids) - 1], targets_BT[row, : len(ids) - 1] = ids[:-1], ids[1:]
        positions_BT = np.broadcast_to(np.arange(self.seq_len), inputs_BT.shape).copy()
        return EventBatch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT), torch.from_numpy(positions_BT))


def sequences(split: DatasetSplit, dataset: TokenDataset, train_config: Any) -> EventSequences:
    """Cut a split into the domain's own batches."""
    return EventSequences(split, train_config.seq_len, dataset.special_tokens["pad"])


SPEC = TokenizeSpec(
    ToyEventsTokenizeConfig, train_tokenizer, load_tokenizer, lambda config: config.val_fraction, sequences=sequences
)
