"""Records in, a codec learned by SentencePiece out (byte pairs or unigram), which gives every body back byte for byte.

SentencePiece (Kudo and Richardson, arXiv 1808.06226) by default normalises text and folds whitespace; here it does neither.
What it cannot tell apart or read, the sign U+2581 that stands for a space in its pieces and bytes that are no UTF-8, is encoded
as single bytes, past it. Decoding joins the bytes of the pieces, which needs no rules.

Byte pairs are looked for in a whole text. Of a unigram model's readings the likeliest is taken line by line, its scores rounded to
sixteenths: sums of these are exact in 32 bits, so that no reading hangs on rounding, and every program finds the same.
"""

import io
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from provenlm.core import hashing, rng
from provenlm.core import io as files
from provenlm.core.errors import UserError
from provenlm.core.records import Record

SPECIAL = {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
SYMBOLS = ["\n", "\n\n", "\t"]  # always one token: lines and indentation are the shape of code
SPACE = "▁"  # in a piece it stands for a space
PAST = re.compile(f"([{SPACE}\udc80-\udcff]+)")  # the latter: bytes that are no UTF-8, as `surrogateescape` decodes them
PAST_UTF8 = re.compile("[\udc80-\udcff]")
PAST_LINES = re.compile(f"({'|'.join(sorted(SYMBOLS, reverse=True))}|[{SPACE}\udc80-\udcff]+)")
LINE = 4096  # characters; SentencePiece leaves longer lines out of its training without a word
BLOCK = 1 << 16  # characters
KIND = "sentencepiece"
SPELLING = "".join(sorted(set("<pad><unk><s></s><0x0123456789ABCDEF>")))  # no text need be read as the name of a special piece
STEPS = 16  # of a unigram score between two whole numbers; exact for lines that sum to 2 ** 24 / 16, some 100,000 characters
Model = Literal["bpe", "unigram"]


class Pieces(NamedTuple):
    """A learned model as other programs need it: ids by piece, bytes as `<0x0A>`; those of `learned` in the order of learning."""

    model: Model
    ids: Mapping[str, int]
    learned: Sequence[str]
    whole: Sequence[str]  # taken before all others
    scores: Mapping[str, float]  # of those of `learned`


class Fast(Protocol):
    """Another program that gives the ids of texts, as SentencePiece does."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]: ...


class SentencePieceCodec:
    """A learned model. Ids 0 to 3 are pad, unk, bos and eos; `encode` gives none of them. `fast` gives the ids of texts, if given."""

    def __init__(self, model: bytes, fast: Fast | None = None) -> None:
        self.model, self.fast = model, fast
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocabulary: int = self._pieces.vocab_size()
        self.special: Mapping[str, int] = dict(SPECIAL)
        self._bytes = [self._bytes_of(identity) for identity in range(self.vocabulary)]
        self._byte_ids = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._symbol_ids = {symbol: [self._pieces.piece_to_id(symbol)] for symbol in SYMBOLS}
        self._past = PAST if self.pieces().model == "bpe" else PAST_LINES

    def __reduce__(self) -> tuple[type["SentencePieceCodec"], tuple[bytes, Fast | None]]:
        return SentencePieceCodec, (self.model, self.fast)

    def _bytes_of(self, identity: int) -> bytes:
        piece: str = self._pieces.id_to_piece(identity)
        if self._pieces.is_control(identity) or self._pieces.is_unknown(identity):
            return b""
        if self._pieces.is_byte(identity):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Ids of each body, whatever its bytes, uint32 (tokens,)."""
        texts = [record.body.decode("utf-8", "surrogateescape") for record in records]
        if self.fast is None:
            return [np.array(self._ids(text), np.uint32) for text in texts]
        sound = [text.isascii() or PAST_UTF8.search(text) is None for text in texts]
        quick = iter(self.fast.encode([text for text, is_sound in zip(texts, sound, strict=True) if is_sound]))
        both = zip(texts, sound, strict=True)
        return [next(quick) if is_sound else np.array(self._ids(text), np.uint32) for text, is_sound in both]

    def _ids(self, text: str) -> list[int]:
        """By SentencePiece, and past it what it cannot read."""
        parts = self._past.split(text)
        ids: list[int] = []
        for read, past in zip(self._pieces.encode(parts[::2], num_threads=1), [*parts[1::2], ""], strict=True):
            ids += read
            ids += self._symbol_ids.get(past) or [self._byte_ids[byte] for byte in past.encode("utf-8", "surrogateescape")]
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[identity] for identity in ids])

    def prompt(self, text: str) -> list[int]:
        return [SPECIAL["bos"], *self._ids(text)]

    def unlearned(self, ids: NDArray[np.uint32]) -> int:
        """How many of `ids` stand for a single byte that no learned piece covers."""
        return int(np.isin(ids, self._byte_ids).sum())

    def pieces(self) -> Pieces:
        """What was learned, spaces written as spaces. No piece holds the sign that stands for one: it is never learned."""
        ordinary = [i for i in range(self.vocabulary) if i not in SPECIAL.values()]
        text = {i: self._pieces.id_to_piece(i).replace(SPACE, " ") for i in ordinary}
        learned = [i for i in ordinary if not self._pieces.is_byte(i) and text[i] not in SYMBOLS]
        learned.sort(key=self._pieces.get_score, reverse=True)
        scores = {text[i]: float(self._pieces.get_score(i)) for i in learned}
        kind: Model = "bpe" if all(score.is_integer() for score in scores.values()) else "unigram"
        return Pieces(kind, {text[i]: i for i in ordinary}, [text[i] for i in learned], SYMBOLS, scores)

    def save(self, folder: Path) -> None:
        """`tokenizer.model`, SentencePiece's own format, and `codec.json`, which holds its digest."""
        files.write_bytes(folder / "tokenizer.model", self.model)
        facts = {"kind": KIND, "vocabulary": self.vocabulary, "special": SPECIAL, "model": hashing.of_bytes(self.model)}
        files.write_json(folder / "codec.json", facts)


def load(folder: Path) -> SentencePieceCodec:
    """The codec that `save` left in `folder`. UserError if a file is missing, of another kind or damaged."""
    try:
        facts = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        model = (folder / "tokenizer.model").read_bytes()
        if facts["kind"] != KIND or facts["model"] != hashing.of_bytes(model):
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
            required_chars=SPELLING if kind == "unigram" else "",
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
    return SentencePieceCodec(model.getvalue() if kind == "bpe" else rounded(model.getvalue()))


def rounded(model: bytes) -> bytes:
    """`model` with the scores of its pieces rounded to STEPS of a whole number."""
    made = bytearray(model)
    for number, begin, end in fields(model, 0, len(model)):
        for inner, place, _ in fields(model, begin, end) if number == 1 else ():  # a ModelProto's pieces
            if inner == 2:  # the score of a SentencePiece, a 32-bit float
                (score,) = struct.unpack_from("<f", model, place)
                struct.pack_into("<f", made, place, round(score * STEPS) / STEPS)
    return bytes(made)


def fields(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a Protocol Buffers message that lies in `data`: number, and where its value begins and ends."""

    def number(place: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[place] & 127) << shift
            shift, place = shift + 7, place + 1
            if data[place - 1] < 128:
                return value, place

    while begin < end:
        key, begin = number(begin)
        after = begin
        if key & 7 == 2:
            size, begin = number(begin)
            after = begin + size
        elif key & 7 == 0:
            _, after = number(begin)
        else:
            after = begin + (4 if key & 7 == 5 else 8)
        yield key >> 3, begin, after
        begin = after


def sample(read: Callable[[], Iterable[Record]], limit: int) -> list[str]:
    """The lines of the blocks that hash into the share of all bytes which `limit` is, none longer than `LINE` characters.

    A block is a record, or a piece of a long one, which would be all of the sample or none of it.
    """
    total = sum(len(record.body) for record in read())
    share = limit / max(1, total)
    lines = (line for record in read() for line in _chosen(record, share).replace(SPACE, " ").split("\n"))
    return [line[start : start + LINE] for line in lines if line.strip() for start in range(0, len(line), LINE)]


def _chosen(record: Record, share: float) -> str:
    """The record's text with a line break for each block that is not chosen."""
    places = range(0, max(1, len(record.body)), BLOCK)  # in bytes, of which there are at least as many as characters
    chosen = {place for place in places if rng.share_of(f"{record.id}+{place}" if place else record.id, "codec") < share}
    text = record.body.decode("utf-8", "replace") if chosen else ""
    return "".join(text[place : place + BLOCK] if place in chosen else "\n" for place in places)


def advice(vocabulary: int, message: str) -> str:
    """What would be right, from SentencePiece's own words."""
    if most := re.search(r"set it to a value <= (\d+)", message):
        return f"{vocabulary} is more than this text gives; at most {most[1]}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"{vocabulary} is less than the characters of this text; at least {least[1]}, or a smaller character_coverage"
    if "sentences_.empty()" in message:
        return "there is no text to learn from; raise sample_bytes or loosen the filter"
    return " ".join(message.split())
