"""Map the characters of grids to tokens of any language model, one token each.

A tokenizer would join digits as it likes: `010` is one token of Llama 3. Character by character every cell is a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provenlm.core.errors import ConfigError
from provenlm.domains.grids.evaluate.solve.grid_text import CHARACTERS, DIGITS, ROW_END

BYTE_LEVEL_NEWLINES = ("Ċ", "<0x0A>")  # of GPT-2 and Llama 3, and of SentencePiece


@dataclass(frozen=True)
class GridVocabulary:
    """Hold the token of each character; `prefix` are the tokens that begin every text."""

    ids: Mapping[str, int]
    prefix: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text of grids."""
        return [self.ids[character] for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens. Raises KeyError for a token that no character has."""
        characters = {token: character for character, token in self.ids.items()}
        return "".join(characters[token] for token in tokens)

    @property
    def answer_ids(self) -> list[int]:
        """Return the tokens of answers: the digits in order and the end of a row."""
        return [self.ids[character] for character in DIGITS + ROW_END]


PLAIN_VOCABULARY = GridVocabulary({character: number for number, character in enumerate(CHARACTERS)})


def grid_vocabulary(tokenizer: Any) -> GridVocabulary:
    """Return the vocabulary of a tokenizer of transformers.

    Raises ConfigError if it has no token for a character.
    """
    known = tokenizer.get_vocab()
    ids = {character: _token_of(tokenizer, known, character) for character in CHARACTERS}
    if missing := [character for character, token in ids.items() if token is None]:
        raise ConfigError(f"tokenizer: must have a token for each of {CHARACTERS!r}, has none for {missing[0]!r}")
    prefix = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    return GridVocabulary({character: token for character, token in ids.items() if token is not None}, prefix)


def _token_of(tokenizer: Any, known: Mapping[str, int], character: str) -> int | None:
    names = (character, *(BYTE_LEVEL_NEWLINES if character == ROW_END else ()))
    named = [known[name] for name in names if name in known]
    tokens = named[:1] or tokenizer.encode(character, add_special_tokens=False)
    return tokens[0] if len(tokens) == 1 and tokens[0] != tokenizer.unk_token_id else None
