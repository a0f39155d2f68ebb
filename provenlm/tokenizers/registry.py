"""A folder with a saved codec in, the codec out, whatever domain it was learned for."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from provenlm.core.errors import UserError
from provenlm.core.interfaces import Codec
from provenlm.tokenizers import characters, sentencepiece_model

LOADERS: Mapping[str, Callable[[Path], Codec]] = {
    characters.KIND: characters.load,
    sentencepiece_model.KIND: sentencepiece_model.load,
}


def load(folder: Path) -> Codec:
    """The codec that its `save` left in `folder`. UserError if it is damaged or of a kind that is a domain's own."""
    try:
        kind = json.loads((folder / "codec.json").read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{(folder / 'codec.json').as_posix()}: not readable as a codec: {error}; run tokenize again") from None
    if kind not in LOADERS:
        raise UserError(f"{folder.as_posix()}: a codec of kind {kind!r}; known here: {', '.join(LOADERS)}")
    return LOADERS[kind](folder)
