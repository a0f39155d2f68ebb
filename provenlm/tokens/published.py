"""A codec in, the files out that Hugging Face's tokenizers read: the same ids for every text, with no code of ours.

Pieces are written with real spaces, not with SentencePiece's sign for one, so that a text that holds the sign itself becomes bytes, as
our codec has it. Special tokens in a text are text: `split_special_tokens`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from provenlm.core.errors import UserError
from provenlm.core.plugin import Codec
from provenlm.tokens.character_codec import CharacterCodec
from provenlm.tokens.sentencepiece_codec import SentencePieceCodec

NAMES = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}


def published(codec: Codec, length: int) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json for texts of at most `length` tokens. UserError for a codec of anything but text."""
    if isinstance(codec, SentencePieceCodec):
        pieces = codec.pieces()
        if pieces.model != "bpe":
            raise UserError(
                "a unigram model has no counterpart with the same ids: of equally likely readings each program takes another"
            )
        made = tokenizer(codec.special, pieces.ids, merges(pieces.ids, pieces.learned), pieces.whole, bytes_for_unknown=True)
    elif isinstance(codec, CharacterCodec):
        made = tokenizer(codec.special, {c: i for i, c in enumerate(codec.characters, start=1)}, [], [], bytes_for_unknown=False)
    else:
        raise UserError(f"a {type(codec).__name__} has no counterpart among Hugging Face's tokenizers")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **{f"{name}_token": NAMES[name] for name in codec.special},
    }
    return {name: json.dumps(value, ensure_ascii=False, indent=1).encode() for name, value in _named(made, config).items()}


def _named(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def merges(ids: Mapping[str, int], learned: Sequence[str]) -> list[tuple[str, str]]:
    """Every way to put a learned piece together from two others, in the order in which pieces were learned."""
    return [
        (piece[:cut], piece[cut:]) for piece in learned for cut in range(1, len(piece)) if piece[:cut] in ids and piece[cut:] in ids
    ]


def tokenizer(
    special: Mapping[str, int],
    ids: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    whole: Sequence[str],
    bytes_for_unknown: bool,
) -> dict[str, Any]:
    """What tokenizer.json says. `ids`: pieces; `whole`: those that are found before any merging; a text begins with bos, if there is one."""
    names = {NAMES[name]: identity for name, identity in special.items()}
    added = [*((name, identity, True) for name, identity in names.items()), *((piece, ids[piece], False) for piece in whole)]
    begin = {"id": "<s>", "ids": [names["<s>"]], "tokens": ["<s>"]} if "<s>" in names else None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": s}
            for c, i, s in sorted(added, key=lambda one: one[1])
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": begin
        and {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": begin},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": NAMES["unk"] if "unk" in special else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": bytes_for_unknown,
            "ignore_merges": False,
            "vocab": {**names, **ids},
            "merges": [list(pair) for pair in merges],
        },
    }
