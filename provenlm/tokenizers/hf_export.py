"""A codec in, the files out that Hugging Face's tokenizers read: the same ids for every text, with no code of ours.

Pieces are written with real spaces, not with SentencePiece's sign for one, so that a text that holds the sign itself becomes bytes, as
our codec has it. Special tokens in a text are text: `split_special_tokens`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from provenlm.core.errors import UserError
from provenlm.core.interfaces import Codec
from provenlm.tokenizers.characters import CharacterCodec
from provenlm.tokenizers.sentencepiece_model import STEPS, SentencePieceCodec

NAMES = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}


UNTAKEN = -1e6  # the score of what text is never read as: ids that stand for something else, under names that a text might hold


def published(codec: Codec, length: int) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json for texts of at most `length` tokens. UserError for a codec of anything but text."""
    made = tokenizer(codec)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **{f"{name}_token": NAMES[name] for name in codec.special},
    }
    files = {"tokenizer.json": made, "tokenizer_config.json": config}
    return {name: json.dumps(value, ensure_ascii=False, indent=1).encode() for name, value in files.items()}


def tokenizer(codec: Codec) -> dict[str, Any]:
    """What tokenizer.json says. UserError for a codec of anything but text."""
    if not isinstance(codec, SentencePieceCodec | CharacterCodec):
        raise UserError(f"a {type(codec).__name__} has no counterpart among Hugging Face's tokenizers")
    names = {NAMES[name]: identity for name, identity in codec.special.items()}
    if isinstance(codec, SentencePieceCodec):
        pieces = codec.pieces()
        vocabulary = {**names, **pieces.ids}
        whole = {piece: pieces.ids[piece] for piece in pieces.whole}
        if pieces.model == "unigram":
            return assembled(names, whole, unigram(vocabulary, pieces.scores))
        return assembled(names, whole, byte_pairs(vocabulary, merges(pieces.ids, pieces.learned), NAMES["unk"]))
    characters = {character: identity for identity, character in enumerate(codec.characters, start=1)}
    return assembled(names, {}, byte_pairs({**names, **characters}, [], None))


def merges(ids: Mapping[str, int], learned: Sequence[str]) -> list[tuple[str, str]]:
    """Every way to put a learned piece together from two others, in the order in which pieces were learned."""
    return [
        (piece[:cut], piece[cut:]) for piece in learned for cut in range(1, len(piece)) if piece[:cut] in ids and piece[cut:] in ids
    ]


def byte_pairs(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], unknown: str | None) -> dict[str, Any]:
    """A model that merges pairs. With `unknown`, what no piece covers becomes single bytes."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": unknown is not None,
        "ignore_merges": False,
        "vocab": dict(vocabulary),
        "merges": [list(pair) for pair in merges],
    }


def unigram(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> dict[str, Any]:
    """A model that takes the likeliest reading. UserError for scores whose sums would be rounded: readings would hang on that."""
    if any(not (score * STEPS).is_integer() for score in scores.values()):
        raise UserError(
            "this unigram model's scores are not rounded, so that each program may read a text otherwise; run tokenize again"
        )
    pieces = [[piece, scores.get(piece, UNTAKEN)] for piece in sorted(vocabulary, key=lambda piece: vocabulary[piece])]
    return {"type": "Unigram", "unk_id": vocabulary[NAMES["unk"]], "byte_fallback": True, "vocab": pieces}


def assembled(names: Mapping[str, int], whole: Mapping[str, int], model: Mapping[str, Any]) -> dict[str, Any]:
    """`names`: of special tokens; `whole`: pieces that are found before the model is asked; a text begins with bos, if there is one."""
    added = [*((name, identity, True) for name, identity in names.items()), *((piece, i, False) for piece, i in whole.items())]
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
        "model": dict(model),
    }
