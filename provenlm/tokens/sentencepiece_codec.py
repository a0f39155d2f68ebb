"""Records in, a codec learned by SentencePiece out (byte pairs or unigram), which gives every body back byte for byte.

SentencePiece (Kudo and Richardson, arXiv 1808.06226) by default normalises text and folds whitespace; here it does neither.
What it cannot tell apart or read, the sign U+2581 that stands for a space in its pieces and bytes that are no UTF-8, is encoded
as single bytes, past it. Decoding joins the bytes of the pieces, which needs no rules.

No byte pair goes on past the end of a word or of a line, so a text's ids are those of its words, one after another: a word is encoded
once and then looked up. Where a model has such a pair, and by a unigram model, whose readings of a word depend on rounding of what
stands before, texts are encoded whole.
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from provenlm.core import digest, files, rng
from provenlm.core.errors import UserError
from provenlm.core.record import Record

SPECIAL = {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
SYMBOLS = ["\n", "\n\n", "\t"]  # always one token: lines and indentation are the shape of code
SPACE = "▁"  # in a piece it stands for a space
PAST = re.compile(f"([{SPACE}\udc80-\udcff]+)")  # the latter: bytes that are no UTF-8, as `surrogateescape` decodes them
WORD = re.compile(r" *[^ \n\t]+| +|\n+|\t")  # with the spaces before it; what no piece may go beyond
KNOWN = 1 << 19  # words whose ids are remembered, about 150 MB at most
LINE = 4096  # characters; SentencePiece leaves longer lines out of its training without a word
KIND = "sentencepiece"
Model = Literal["bpe", "unigram"]


class Pieces(NamedTuple):
    """A learned model as other programs need it: ids by piece, bytes as `<0x0A>`; those of `learned` in the order of learning."""

    model: Model
    ids: Mapping[str, int]
    learned: Sequence[str]
    whole: Sequence[str]  # taken before all others


class SentencePieceCodec:
    """A learned model. Ids 0 to 3 are pad, unk, bos and eos; `encode` gives none of them."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocabulary: int = self._pieces.vocab_size()
        self.special: Mapping[str, int] = dict(SPECIAL)
        self._bytes = [self._bytes_of(identity) for identity in range(self.vocabulary)]
        self._byte_ids = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._known: dict[str, list[int]] = {}
        pieces = self.pieces()
        self._by_word = pieces.model == "bpe" and all(WORD.fullmatch(piece) for piece in pieces.learned)

    def __reduce__(self) -> tuple[type["SentencePieceCodec"], tuple[bytes]]:
        return SentencePieceCodec, (self._model,)

    def _bytes_of(self, identity: int) -> bytes:
        piece: str = self._pieces.id_to_piece(identity)
        if self._pieces.is_control(identity) or self._pieces.is_unknown(identity):
            return b""
        if self._pieces.is_byte(identity):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Ids of each body, whatever its bytes, uint32 (tokens,)."""
        texts = [PAST.split(record.body.decode("utf-8", "surrogateescape")) for record in records]
        self._learn_words(texts)
        return [np.array(self._ids(parts), np.uint32) for parts in texts]

    def _learn_words(self, texts: Sequence[Sequence[str]]) -> None:
        """Encode the words of `texts` that are not known yet, on all cores."""
        if not self._by_word:
            return
        fresh = {word for parts in texts for part in parts[::2] for word in WORD.findall(part)} - self._known.keys()
        if len(self._known) + len(fresh) > KNOWN:
            self._known = {}
        words = list(fresh)
        self._known.update(zip(words, self._pieces.encode(words, num_threads=os.cpu_count() or 1), strict=True))

    def _ids(self, parts: Sequence[str]) -> list[int]:
        """The ids of a text that was split by PAST: its even parts are for the model, the others are bytes past it."""
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids += [self._byte_ids[byte] for byte in part.encode("utf-8", "surrogateescape")]
            elif not self._by_word:
                ids += self._pieces.encode(part)
            else:
                for word in WORD.findall(part):
                    ids += self._known.get(word) or self._pieces.encode(word)
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[identity] for identity in ids])

    def prompt(self, text: str) -> list[int]:
        return [SPECIAL["bos"], *self._ids(PAST.split(text))]

    def unlearned(self, ids: NDArray[np.uint32]) -> int:
        """How many of `ids` stand for a single byte that no learned piece covers."""
        return int(np.isin(ids, self._byte_ids).sum())

    def pieces(self) -> Pieces:
        """What was learned, spaces written as spaces. No piece holds the sign that stands for one: it is never learned."""
        ordinary = [i for i in range(self.vocabulary) if i not in SPECIAL.values()]
        text = {i: self._pieces.id_to_piece(i).replace(SPACE, " ") for i in ordinary}
        learned = [i for i in ordinary if not self._pieces.is_byte(i) and text[i] not in SYMBOLS]
        learned.sort(key=self._pieces.get_score, reverse=True)
        ranked = all(self._pieces.get_score(i) == int(self._pieces.get_score(i)) for i in learned)
        return Pieces("bpe" if ranked else "unigram", {text[i]: i for i in ordinary}, [text[i] for i in learned], SYMBOLS)

    def save(self, folder: Path) -> None:
        """`tokenizer.model`, SentencePiece's own format, and `codec.json`, which holds its digest."""
        files.write_bytes(folder / "tokenizer.model", self._model)
        facts = {"kind": KIND, "vocabulary": self.vocabulary, "special": SPECIAL, "model": digest.of_bytes(self._model)}
        files.write_json(folder / "codec.json", facts)


def load(folder: Path) -> SentencePieceCodec:
    """The codec that `save` left in `folder`. UserError if a file is missing, of another kind or damaged."""
    try:
        facts = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        model = (folder / "tokenizer.model").read_bytes()
        if facts["kind"] != KIND or facts["model"] != digest.of_bytes(model):
            raise ValueError("tokenizer.model is not the file that codec.json describes")
        return SentencePieceCodec(model)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder.as_posix()}: not readable as a SentencePiece codec: {error}; run tokenize again") from None


def learn(
    read: Callable[[], Iterable[Record]], vocabulary: int, character_coverage: float, sample_bytes: int, kind: Model = "bpe"
) -> SentencePieceCodec:
    """Learn `vocabulary` pieces from about `sample_bytes` of the records, chosen by hash of their ids.

    The same records and settings give the same model, byte for byte: one thread, as their number is written into the model.
    UserError if the sample is too small or too varied for `vocabulary`.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample(read, sample_bytes)),
            model_writer=model,
            model_type=kind,
            vocab_size=vocabulary,
            character_coverage=character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=SYMBOLS,
            max_sentence_length=8 * LINE,
            num_threads=1,
            minloglevel=2,
            pad_id=SPECIAL["pad"],
            unk_id=SPECIAL["unk"],
            bos_id=SPECIAL["bos"],
            eos_id=SPECIAL["eos"],
        )
    except RuntimeError as error:
        raise UserError(f"tokenize.vocabulary: {advice(vocabulary, str(error))}") from None
    return SentencePieceCodec(model.getvalue())


def sample(read: Callable[[], Iterable[Record]], limit: int) -> list[str]:
    """The lines of the records that hash into the share of all bytes which `limit` is, none longer than `LINE` characters."""
    total = sum(len(record.body) for record in read())
    share = limit / max(1, total)
    chosen = (record for record in read() if rng.share_of(record.id, "codec") < share)
    lines = (line for record in chosen for line in record.body.decode("utf-8", "replace").replace(SPACE, " ").split("\n"))
    return [line[start : start + LINE] for line in lines if line.strip() for start in range(0, len(line), LINE)]


def advice(vocabulary: int, message: str) -> str:
    """What would be right, from SentencePiece's own words."""
    if most := re.search(r"set it to a value <= (\d+)", message):
        return f"{vocabulary} is more than this text gives; at most {most[1]}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"{vocabulary} is less than the characters of this text; at least {least[1]}, or a smaller character_coverage"
    if "sentences_.empty()" in message:
        return "there is no text to learn from; raise sample_bytes or loosen the filter"
    return " ".join(message.split())
