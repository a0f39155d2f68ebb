"""Records in, a codec with one id for each distinct character out; id 0 is padding, and the last id may say that a text ends."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provenlm.core import io
from provenlm.core.errors import UserError
from provenlm.core.records import Record

KIND = "characters"


class CharacterCodec:
    """`characters[i]` has the id i + 1. With `end` there is an `eos`, the id after the last character's."""

    def __init__(self, characters: str, end: bool) -> None:
        self.characters = characters
        self.vocabulary = len(characters) + 1 + end
        self.special: Mapping[str, int] = {"pad": 0, "eos": self.vocabulary - 1} if end else {"pad": 0}
        self._ids = {character: place for place, character in enumerate(characters, start=1)}

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Ids of each body, uint32 (characters,). UserError for a character that was not learned."""
        return [np.array(self.prompt(text_of(record)), np.uint32) for record in records]

    def decode(self, ids: Sequence[int]) -> bytes:
        return "".join([self.characters[identity - 1] for identity in ids if 0 < identity <= len(self.characters)]).encode()

    def prompt(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise UserError(f"no id for the character {error.args[0]!r}; the {len(self._ids)} known: {self.characters}") from None

    def unlearned(self, ids: NDArray[np.uint32]) -> int:
        return 0  # an unknown character is refused

    def save(self, folder: Path) -> None:
        io.write_json(folder / "codec.json", {"kind": KIND, "characters": self.characters, "end": "eos" in self.special})


def learn(records: Iterable[Record], end: bool) -> CharacterCodec:
    """A codec of the characters that occur, in order of their code points; with `end`, also of a text's end."""
    return CharacterCodec("".join(sorted({character for record in records for character in text_of(record)})), end)


def load(folder: Path) -> CharacterCodec:
    """The codec that `save` left in `folder`. UserError if the file is missing, of another kind or damaged."""
    path = folder / "codec.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["kind"] != KIND or len(set(facts["characters"])) != len(facts["characters"]):
            raise ValueError("no list of distinct characters")
        if not isinstance(facts["end"], bool):
            raise ValueError("no word on whether texts end with a token")
        return CharacterCodec(facts["characters"], facts["end"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path.as_posix()}: not readable as a character codec: {error}; run tokenize again") from None


def text_of(record: Record) -> str:
    try:
        return record.text
    except UnicodeDecodeError as error:
        raise UserError(f"record {record.id} from {record.source}: not UTF-8 ({error.reason} at byte {error.start})") from None
