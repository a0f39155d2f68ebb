"""Encode text with one token id for each distinct character.

Id 0 is padding; with `add_eos` the last id ends a text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provenlm.core import io
from provenlm.core.errors import DataError
from provenlm.core.records import Record

TOKENIZER_TYPE = "characters"


class CharacterTokenizer:
    """Map characters to ids.

    `characters[i]` has the id i + 1; `eos`, where it exists, is the last id.
    """

    def __init__(self, characters: str, add_eos: bool) -> None:
        self.characters = characters
        self.vocab_size = len(characters) + 1 + add_eos
        self.special_tokens: Mapping[str, int] = {"pad": 0, "eos": self.vocab_size - 1} if add_eos else {"pad": 0}
        self.token_classes: Mapping[str, NDArray[np.int64]] = {}
        self._ids = {character: token_id for token_id, character in enumerate(characters, start=1)}

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Encode the content of each record as uint32 (characters,).

        Raises DataError for an unknown character.
        """
        return [np.array(self.encode_prompt(record_text(record)), np.uint32) for record in records]

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode ids to UTF-8; special tokens are left out."""
        return "".join([self.characters[token_id - 1] for token_id in ids if 0 < token_id <= len(self.characters)]).encode()

    def describe(self, ids: Sequence[int]) -> str:
        """Return the decoded text; bytes that are not UTF-8 are replaced."""
        return self.decode(ids).decode("utf-8", "replace")

    def encode_prompt(self, text: str) -> list[int]:
        """Encode `text` without special tokens.

        Raises DataError for an unknown character.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise DataError(f"text: every character must be one of {self.characters!r}, got {error.args[0]!r}") from None

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        """Return 0: `encode` raises an error for an unknown character."""
        return 0

    def save(self, folder: Path) -> None:
        """Write `metadata.json` to `folder`."""
        metadata = {"type": TOKENIZER_TYPE, "characters": self.characters, "add_eos": "eos" in self.special_tokens}
        io.write_json(folder / "metadata.json", metadata)


def train_character_tokenizer(records: Iterable[Record], add_eos: bool) -> CharacterTokenizer:
    """Build a tokenizer of all characters in `records`, ordered by code point."""
    return CharacterTokenizer("".join(sorted({character for record in records for character in record_text(record)})), add_eos)


def load_character_tokenizer(folder: Path) -> CharacterTokenizer:
    """Load a saved tokenizer.

    Raises DataError if its file is missing, damaged or of another type.
    """
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if metadata["type"] != TOKENIZER_TYPE:
            raise ValueError(f"type must be {TOKENIZER_TYPE!r}, got {metadata['type']!r}")
        if len(set(metadata["characters"])) != len(metadata["characters"]):
            raise ValueError("characters must be distinct")
        if not isinstance(metadata["add_eos"], bool):
            raise ValueError(f"add_eos must be true or false, got {metadata['add_eos']!r}")
        return CharacterTokenizer(metadata["characters"], metadata["add_eos"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.as_posix()}: cannot load a character tokenizer: {error}; run tokenize again") from None


def record_text(record: Record) -> str:
    """Decode the content of `record`.

    Raises DataError, naming its source, if it is not UTF-8.
    """
    try:
        return record.text
    except UnicodeDecodeError as error:
        raise DataError(f"record {record.id} from {record.source}: not UTF-8 ({error.reason} at byte {error.start})") from None
