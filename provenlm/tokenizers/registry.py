"""A folder with a saved codec in, the codec out, whatever domain it was learned for."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from provenlm.core.errors import ProvenlmError
from provenlm.core.interfaces import Tokenizer
from provenlm.tokenizers import characters, sentencepiece_model

TOKENIZER_LOADERS: Mapping[str, Callable[[Path], Tokenizer]] = {
    characters.TOKENIZER_TYPE: characters.load_character_tokenizer,
    sentencepiece_model.TOKENIZER_TYPE: sentencepiece_model.load_sentencepiece_tokenizer,
}


def load_tokenizer(folder: Path) -> Tokenizer:
    """The codec that its `save` left in `folder`. ProvenlmError if it is damaged or of a kind that is a domain's own."""
    try:
        tokenizer_type = json.loads((folder / "codec.json").read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProvenlmError(f"{(folder / 'codec.json').as_posix()}: not readable as a codec: {error}; run tokenize again") from None
    if tokenizer_type not in TOKENIZER_LOADERS:
        raise ProvenlmError(f"{folder.as_posix()}: a codec of kind {tokenizer_type!r}; known here: {', '.join(TOKENIZER_LOADERS)}")
    return TOKENIZER_LOADERS[tokenizer_type](folder)
