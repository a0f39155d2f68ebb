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
from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record

SPECIAL_TOKENS = {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
USER_SYMBOLS = ["\n", "\n\n", "\t"]  # always one token: lines and indentation are the shape of code
SPACE_MARKER = "▁"  # in a piece it stands for a space
UNENCODABLE = re.compile(
    f"([{SPACE_MARKER}\udc80-\udcff]+)"
)  # the latter: bytes that are no UTF-8, as `surrogateescape` decodes them
NON_UTF8 = re.compile("[\udc80-\udcff]")
UNENCODABLE_OR_SYMBOL = re.compile(f"({'|'.join(sorted(USER_SYMBOLS, reverse=True))}|[{SPACE_MARKER}\udc80-\udcff]+)")
MAX_LINE_CHARS = 4096  # characters; SentencePiece leaves longer lines out of its training without a word
SAMPLE_BLOCK_CHARS = 1 << 16  # characters
TOKENIZER_TYPE = "sentencepiece"
REQUIRED_CHARS = "".join(
    sorted(set("<pad><unk><s></s><0x0123456789ABCDEF>"))
)  # no text need be read as the name of a special piece
SCORE_STEPS = 16  # of a unigram score between two whole numbers; exact for lines that sum to 2 ** 24 / 16, some 100,000 characters
SentencePieceModelType = Literal["bpe", "unigram"]


class ExportedVocab(NamedTuple):
    """A learned model as other programs need it: ids by piece, bytes as `<0x0A>`; those of `learned` in the order of learning."""

    model_type: SentencePieceModelType
    ids: Mapping[str, int]
    learned_pieces: Sequence[str]
    user_symbols: Sequence[str]  # taken before all others
    scores: Mapping[str, float]  # of those of `learned`


class EncoderBackend(Protocol):
    """Another program that gives the ids of texts, as SentencePiece does."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]: ...


class SentencePieceTokenizer:
    """A learned model. Ids 0 to 3 are pad, unk, bos and eos; `encode` gives none of them. `fast` gives the ids of texts, if given."""

    def __init__(self, model_proto: bytes, backend: EncoderBackend | None = None) -> None:
        self.model_proto, self.backend = model_proto, backend
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        self.vocab_size: int = self._processor.vocab_size()
        self.special_tokens: Mapping[str, int] = dict(SPECIAL_TOKENS)
        self._bytes = [self._bytes_of(token_id) for token_id in range(self.vocab_size)]
        self._byte_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._symbol_ids = {symbol: [self._processor.piece_to_id(symbol)] for symbol in USER_SYMBOLS}
        self._split_pattern = UNENCODABLE if self.export_vocab().model_type == "bpe" else UNENCODABLE_OR_SYMBOL

    def __reduce__(self) -> tuple[type["SentencePieceTokenizer"], tuple[bytes, EncoderBackend | None]]:
        return SentencePieceTokenizer, (self.model_proto, self.backend)

    def _bytes_of(self, token_id: int) -> bytes:
        piece: str = self._processor.id_to_piece(token_id)
        if self._processor.is_control(token_id) or self._processor.is_unknown(token_id):
            return b""
        if self._processor.is_byte(token_id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE_MARKER, " ").encode()

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Ids of each body, whatever its bytes, uint32 (tokens,)."""
        texts = [record.content.decode("utf-8", "surrogateescape") for record in records]
        if self.backend is None:
            return [np.array(self._encode_text(text), np.uint32) for text in texts]
        encodable = [text.isascii() or NON_UTF8.search(text) is None for text in texts]
        backend_ids = iter(self.backend.encode([text for text, is_encodable in zip(texts, encodable, strict=True) if is_encodable]))
        pairs = zip(texts, encodable, strict=True)
        return [next(backend_ids) if is_encodable else np.array(self._encode_text(text), np.uint32) for text, is_encodable in pairs]

    def _encode_text(self, text: str) -> list[int]:
        """By SentencePiece, and past it what it cannot read."""
        parts = self._split_pattern.split(text)
        ids: list[int] = []
        for piece_ids, unencodable in zip(self._processor.encode(parts[::2], num_threads=1), [*parts[1::2], ""], strict=True):
            ids += piece_ids
            ids += self._symbol_ids.get(unencodable) or [
                self._byte_ids[byte] for byte in unencodable.encode("utf-8", "surrogateescape")
            ]
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[token_id] for token_id in ids])

    def encode_prompt(self, text: str) -> list[int]:
        return [SPECIAL_TOKENS["bos"], *self._encode_text(text)]

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        """How many of `ids` stand for a single byte that no learned piece covers."""
        return int(np.isin(ids, self._byte_ids).sum())

    def export_vocab(self) -> ExportedVocab:
        """What was learned, spaces written as spaces. No piece holds the sign that stands for one: it is never learned."""
        ordinary = [i for i in range(self.vocab_size) if i not in SPECIAL_TOKENS.values()]
        text = {i: self._processor.id_to_piece(i).replace(SPACE_MARKER, " ") for i in ordinary}
        learned_ids = [i for i in ordinary if not self._processor.is_byte(i) and text[i] not in USER_SYMBOLS]
        learned_ids.sort(key=self._processor.get_score, reverse=True)
        scores = {text[i]: float(self._processor.get_score(i)) for i in learned_ids}
        model_type: SentencePieceModelType = "bpe" if all(score.is_integer() for score in scores.values()) else "unigram"
        return ExportedVocab(model_type, {text[i]: i for i in ordinary}, [text[i] for i in learned_ids], USER_SYMBOLS, scores)

    def save(self, folder: Path) -> None:
        """`tokenizer.model`, SentencePiece's own format, and `codec.json`, which holds its digest."""
        files.write_bytes(folder / "tokenizer.model", self.model_proto)
        metadata = {
            "kind": TOKENIZER_TYPE,
            "vocabulary": self.vocab_size,
            "special": SPECIAL_TOKENS,
            "model": hashing.sha256_bytes(self.model_proto),
        }
        files.write_json(folder / "codec.json", metadata)


def load_sentencepiece_tokenizer(folder: Path) -> SentencePieceTokenizer:
    """The codec that `save` left in `folder`. ProvenlmError if a file is missing, of another kind or damaged."""
    try:
        metadata = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        model_proto = (folder / "tokenizer.model").read_bytes()
        if metadata["kind"] != TOKENIZER_TYPE or metadata["model"] != hashing.sha256_bytes(model_proto):
            raise ValueError("tokenizer.model is not the file that codec.json describes")
        return SentencePieceTokenizer(model_proto)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ProvenlmError(f"{folder.as_posix()}: not readable as a SentencePiece codec: {error}; run tokenize again") from None


def train_sentencepiece_tokenizer(
    read_records: Callable[[], Iterable[Record]],
    vocab_size: int,
    character_coverage: float,
    sample_bytes: int,
    model_type: SentencePieceModelType = "bpe",
) -> SentencePieceTokenizer:
    """Learn `vocabulary` pieces from about `sample_bytes` of the records, chosen by hash of their ids.

    The same records and settings give the same model, byte for byte: one thread, as their number is written into the model.
    ProvenlmError if the sample is too small or too varied for `vocabulary`.
    """
    model_buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample_text(read_records, sample_bytes)),
            model_writer=model_buffer,
            model_type=model_type,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            required_chars=REQUIRED_CHARS if model_type == "unigram" else "",
            user_defined_symbols=USER_SYMBOLS,
            max_sentence_length=8 * MAX_LINE_CHARS,
            num_threads=1,
            minloglevel=2,
            pad_id=SPECIAL_TOKENS["pad"],
            unk_id=SPECIAL_TOKENS["unk"],
            bos_id=SPECIAL_TOKENS["bos"],
            eos_id=SPECIAL_TOKENS["eos"],
        )
    except RuntimeError as error:
        raise ProvenlmError(f"tokenize.vocabulary: {vocab_size_hint(vocab_size, str(error))}") from None
    return SentencePieceTokenizer(model_buffer.getvalue() if model_type == "bpe" else round_scores(model_buffer.getvalue()))


def round_scores(model_proto: bytes) -> bytes:
    """`model` with the scores of its pieces rounded to STEPS of a whole number."""
    output = bytearray(model_proto)
    for field_number, begin, end in iter_protobuf_fields(model_proto, 0, len(model_proto)):
        for inner_number, offset, _ in (
            iter_protobuf_fields(model_proto, begin, end) if field_number == 1 else ()
        ):  # a ModelProto's pieces
            if inner_number == 2:  # the score of a SentencePiece, a 32-bit float
                (score,) = struct.unpack_from("<f", model_proto, offset)
                struct.pack_into("<f", output, offset, round(score * SCORE_STEPS) / SCORE_STEPS)
    return bytes(output)


def iter_protobuf_fields(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a Protocol Buffers message that lies in `data`: number, and where its value begins and ends."""

    def read_varint(offset: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[offset] & 127) << shift
            shift, offset = shift + 7, offset + 1
            if data[offset - 1] < 128:
                return value, offset

    while begin < end:
        key, begin = read_varint(begin)
        value_end = begin
        if key & 7 == 2:
            size, begin = read_varint(begin)
            value_end = begin + size
        elif key & 7 == 0:
            _, value_end = read_varint(begin)
        else:
            value_end = begin + (4 if key & 7 == 5 else 8)
        yield key >> 3, begin, value_end
        begin = value_end


def sample_text(read_records: Callable[[], Iterable[Record]], max_bytes: int) -> list[str]:
    """The lines of the blocks that hash into the share of all bytes which `limit` is, none longer than `LINE` characters.

    A block is a record, or a piece of a long one, which would be all of the sample or none of it.
    """
    total_bytes = sum(len(record.content) for record in read_records())
    fraction = max_bytes / max(1, total_bytes)
    lines = (line for record in read_records() for line in _sampled_blocks(record, fraction).replace(SPACE_MARKER, " ").split("\n"))
    return [line[start : start + MAX_LINE_CHARS] for line in lines if line.strip() for start in range(0, len(line), MAX_LINE_CHARS)]


def _sampled_blocks(record: Record, fraction: float) -> str:
    """The record's text with a line break for each block that is not chosen."""
    block_starts = range(
        0, max(1, len(record.content)), SAMPLE_BLOCK_CHARS
    )  # in bytes, of which there are at least as many as characters
    sampled_starts = {
        start for start in block_starts if rng.hash_to_unit(f"{record.id}+{start}" if start else record.id, "codec") < fraction
    }
    text = record.content.decode("utf-8", "replace") if sampled_starts else ""
    return "".join(text[start : start + SAMPLE_BLOCK_CHARS] if start in sampled_starts else "\n" for start in block_starts)


def vocab_size_hint(vocab_size: int, message: str) -> str:
    """What would be right, from SentencePiece's own words."""
    if max_match := re.search(r"set it to a value <= (\d+)", message):
        return f"{vocab_size} is more than this text gives; at most {max_match[1]}"
    if min_match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"{vocab_size} is less than the characters of this text; at least {min_match[1]}, or a smaller character_coverage"
    if "sentences_.empty()" in message:
        return "there is no text to learn from; raise sample_bytes or loosen the filter"
    return " ".join(message.split())
