"""Records in, a codec with one id for each distinct character out; id 0 is padding, and the last id may say that a text ends."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provenlm.core import io
from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record

TOKENIZER_TYPE = "characters"


class CharacterTokenizer:
    """`characters[i]` has the id i + 1. With `end` there is an `eos`, the id after the last character's."""

    def __init__(self, characters: str, add_eos: bool) -> None:
        self.characters = characters
        self.vocab_size = len(characters) + 1 + add_eos
        self.special_tokens: Mapping[str, int] = {"pad": 0, "eos": self.vocab_size - 1} if add_eos else {"pad": 0}
        self._ids = {character: token_id for token_id, character in enumerate(characters, start=1)}

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Ids of each body, uint32 (characters,). ProvenlmError for a character that was not learned."""
        return [np.array(self.encode_prompt(record_text(record)), np.uint32) for record in records]

    def decode(self, ids: Sequence[int]) -> bytes:
        return "".join([self.characters[token_id - 1] for token_id in ids if 0 < token_id <= len(self.characters)]).encode()

    def encode_prompt(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ProvenlmError(
                f"no id for the character {error.args[0]!r}; the {len(self._ids)} known: {self.characters}"
            ) from None

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        return 0  # an unknown character is refused

    def save(self, folder: Path) -> None:
        io.write_json(
            folder / "codec.json", {"kind": TOKENIZER_TYPE, "characters": self.characters, "end": "eos" in self.special_tokens}
        )


def train_character_tokenizer(records: Iterable[Record], add_eos: bool) -> CharacterTokenizer:
    """A codec of the characters that occur, in order of their code points; with `end`, also of a text's end."""
    return CharacterTokenizer("".join(sorted({character for record in records for character in record_text(record)})), add_eos)


def load_character_tokenizer(folder: Path) -> CharacterTokenizer:
    """The codec that `save` left in `folder`. ProvenlmError if the file is missing, of another kind or damaged."""
    path = folder / "codec.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if metadata["kind"] != TOKENIZER_TYPE or len(set(metadata["characters"])) != len(metadata["characters"]):
            raise ValueError("no list of distinct characters")
        if not isinstance(metadata["end"], bool):
            raise ValueError("no word on whether texts end with a token")
        return CharacterTokenizer(metadata["characters"], metadata["end"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProvenlmError(f"{path.as_posix()}: not readable as a character codec: {error}; run tokenize again") from None


def record_text(record: Record) -> str:
    try:
        return record.text
    except UnicodeDecodeError as error:
        raise ProvenlmError(f"record {record.id} from {record.source}: not UTF-8 ({error.reason} at byte {error.start})") from None
