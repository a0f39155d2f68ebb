"""Convert a tokenizer to Hugging Face's files, with the same ids for every text.

Pieces are written with real spaces instead of SentencePiece's marker U+2581, so that a text with the marker itself becomes bytes,
as in our tokenizer. Special tokens that a text spells out are encoded as text (`split_special_tokens`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from provenlm.core.errors import ConfigError, DataError
from provenlm.core.interfaces import Tokenizer
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.tokenizers.sentencepiece_model import SCORE_STEPS, SentencePieceTokenizer

SPECIAL_TOKEN_STRINGS = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}
UNUSED_SCORE = -1e6  # of pieces that no text may be segmented into: special and byte pieces, whose names a text might contain


def tokenizer_to_hf(tokenizer: Tokenizer, max_length: int) -> dict[str, bytes]:
    """Return the content of tokenizer.json and tokenizer_config.json.

    `max_length` is the longest text in tokens. Raises ConfigError for a tokenizer that Hugging Face's library cannot represent.
    """
    tokenizer_json = to_tokenizer_json(tokenizer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **{f"{name}_token": SPECIAL_TOKEN_STRINGS[name] for name in tokenizer.special_tokens},
    }
    files = {"tokenizer.json": tokenizer_json, "tokenizer_config.json": config}
    return {name: json.dumps(value, ensure_ascii=False, indent=1).encode() for name, value in files.items()}


def to_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of tokenizer.json.

    Raises ConfigError for a tokenizer of anything but text.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer | CharacterTokenizer):
        raise ConfigError(f"tokenizer: must be a text tokenizer to be exported to Hugging Face, got {type(tokenizer).__name__}")
    special_ids = {SPECIAL_TOKEN_STRINGS[name]: token_id for name, token_id in tokenizer.special_tokens.items()}
    if isinstance(tokenizer, SentencePieceTokenizer):
        exported = tokenizer.export_vocab()
        vocab = {**special_ids, **exported.ids}
        symbol_ids = {piece: exported.ids[piece] for piece in exported.user_symbols}
        if exported.model_type == "unigram":
            return assemble_tokenizer_json(special_ids, symbol_ids, unigram_model(vocab, exported.scores))
        return assemble_tokenizer_json(
            special_ids,
            symbol_ids,
            bpe_model(vocab, bpe_merges(exported.ids, exported.learned_pieces), SPECIAL_TOKEN_STRINGS["unk"]),
        )
    characters = {character: token_id for token_id, character in enumerate(tokenizer.characters, start=1)}
    return assemble_tokenizer_json(special_ids, {}, bpe_model({**special_ids, **characters}, [], None))


def bpe_merges(ids: Mapping[str, int], learned_pieces: Sequence[str]) -> list[tuple[str, str]]:
    """List every pair of pieces that joins to a learned piece, in learning order."""
    return [
        (piece[:cut], piece[cut:])
        for piece in learned_pieces
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]


def bpe_model(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], unk_token: str | None) -> dict[str, Any]:
    """Return the BPE section of tokenizer.json.

    With `unk_token`, text that no piece covers becomes single bytes.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": unk_token is not None,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in merges],
    }


def unigram_model(vocab: Mapping[str, int], scores: Mapping[str, float]) -> dict[str, Any]:
    """Return the unigram section of tokenizer.json.

    Raises DataError for scores that are not multiples of 1 / SCORE_STEPS: rounding would decide which segmentation wins.
    """
    if any(not (score * SCORE_STEPS).is_integer() for score in scores.values()):
        raise DataError(f"tokenizer.model: unigram scores must be multiples of 1/{SCORE_STEPS}; run tokenize again")
    pieces = [[piece, scores.get(piece, UNUSED_SCORE)] for piece in sorted(vocab, key=lambda piece: vocab[piece])]
    return {"type": "Unigram", "unk_id": vocab[SPECIAL_TOKEN_STRINGS["unk"]], "byte_fallback": True, "vocab": pieces}


def assemble_tokenizer_json(
    special_ids: Mapping[str, int], symbol_ids: Mapping[str, int], model: Mapping[str, Any]
) -> dict[str, Any]:
    """Assemble tokenizer.json.

    `symbol_ids` are matched before the model runs; bos, if there is one, begins a text.
    """
    added = [
        *((name, token_id, True) for name, token_id in special_ids.items()),
        *((piece, i, False) for piece, i in symbol_ids.items()),
    ]
    bos = {"id": "<s>", "ids": [special_ids["<s>"]], "tokens": ["<s>"]} if "<s>" in special_ids else None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": s}
            for c, i, s in sorted(added, key=lambda token: token[1])
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": bos
        and {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": bos},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": dict(model),
    }
