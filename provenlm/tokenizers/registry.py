"""Load a saved tokenizer, whichever type it has."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from provenlm.core import registry
from provenlm.core.errors import DataError
from provenlm.core.interfaces import Tokenizer, TokenizeSpec
from provenlm.tokenizers import characters, sentencepiece_model

TOKENIZER_LOADERS: Mapping[str, Callable[[Path], Tokenizer]] = {
    characters.TOKENIZER_TYPE: characters.load_character_tokenizer,
    sentencepiece_model.TOKENIZER_TYPE: sentencepiece_model.load_sentencepiece_tokenizer,
}


def load_tokenizer(folder: Path, domain: str) -> Tokenizer:
    """Load the tokenizer in `folder`.

    It has a built-in type, or the type that `domain` brings with its `TokenizeSpec`. Raises DataError if `metadata.json` is missing
    or damaged; the domain's own loader raises it for a type that it does not know.
    """
    path = folder / "metadata.json"
    try:
        tokenizer_type = json.loads(path.read_text(encoding="utf-8"))["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.as_posix()}: cannot load a tokenizer: {error}; run tokenize again") from None
    if tokenizer_type in TOKENIZER_LOADERS:
        return TOKENIZER_LOADERS[tokenizer_type](folder)
    return registry.load_domain(domain, "tokenize", TokenizeSpec).load(folder)
