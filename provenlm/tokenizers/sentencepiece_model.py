"""Train and run a SentencePiece tokenizer that restores every byte.

Models are BPE or unigram. SentencePiece (Kudo and Richardson, arXiv 1808.06226) normalizes text and folds whitespace by default;
here it does neither. It cannot represent its own space marker U+2581 or bytes that are not UTF-8: they are encoded as single bytes,
without SentencePiece. Decoding joins the bytes of the pieces.

BPE merges run over the whole text. A unigram model segments each line by itself, and its scores are rounded to sixteenths: sums of
sixteenths are exact in float32, so that no segmentation depends on rounding and every implementation finds the same one.
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
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.records import Record

SPECIAL_TOKENS = {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
USER_SYMBOLS = ["\n", "\n\n", "\t"]  # always one token each: line breaks and indentation are the structure of code
SPACE_MARKER = "▁"  # stands for a space in a piece
# \udc80-\udcff are the bytes that are not UTF-8, as the error handler `surrogateescape` decodes them
UNENCODABLE = re.compile(f"([{SPACE_MARKER}\udc80-\udcff]+)")
NON_UTF8 = re.compile("[\udc80-\udcff]")
UNENCODABLE_OR_SYMBOL = re.compile(f"({'|'.join(sorted(USER_SYMBOLS, reverse=True))}|[{SPACE_MARKER}\udc80-\udcff]+)")
MAX_LINE_CHARS = 4096  # SentencePiece drops longer lines from training without a message
SAMPLE_BLOCK_CHARS = 1 << 16
TOKENIZER_TYPE = "sentencepiece"
REQUIRED_CHARS = "".join(sorted(set("<pad><unk><s></s><0x0123456789ABCDEF>")))  # so that text never needs a special piece
SCORE_STEPS = 16  # steps of a unigram score per unit; exact for lines whose scores sum to 2 ** 24 / 16, about 100,000 characters
SentencePieceModelType = Literal["bpe", "unigram"]


class ExportedVocab(NamedTuple):
    """Describe a trained model for other implementations.

    `ids` maps pieces to ids; `<0x0A>` is a byte, and spaces are spaces.
    """

    model_type: SentencePieceModelType
    ids: Mapping[str, int]
    learned_pieces: Sequence[str]  # in the order of learning
    user_symbols: Sequence[str]  # matched before all other pieces
    scores: Mapping[str, float]  # of each learned piece


class EncoderBackend(Protocol):
    """Declare another implementation of the same model."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Encode each text as uint32 (tokens,), without special tokens."""
        ...


class SentencePieceTokenizer:
    """Encode and decode with a trained model.

    `backend`, if given, encodes the texts that are UTF-8. Ids 0 to 3 are pad, unk, bos and eos; `encode` returns none of them.
    """

    def __init__(self, model_proto: bytes, backend: EncoderBackend | None = None) -> None:
        self.model_proto, self.backend = model_proto, backend
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        self.vocab_size: int = self._processor.vocab_size()
        self.special_tokens: Mapping[str, int] = dict(SPECIAL_TOKENS)
        self.token_classes: Mapping[str, NDArray[np.int64]] = {}
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
        """Encode the content of each record, whatever its bytes, as uint32 (tokens,)."""
        texts = [record.content.decode("utf-8", "surrogateescape") for record in records]
        if self.backend is None:
            return [np.array(self._encode_text(text), np.uint32) for text in texts]
        encodable = [text.isascii() or NON_UTF8.search(text) is None for text in texts]
        backend_ids = iter(self.backend.encode([text for text, is_encodable in zip(texts, encodable, strict=True) if is_encodable]))
        pairs = zip(texts, encodable, strict=True)
        return [next(backend_ids) if is_encodable else np.array(self._encode_text(text), np.uint32) for text, is_encodable in pairs]

    def _encode_text(self, text: str) -> list[int]:
        """Encode with SentencePiece, and as bytes what it cannot represent."""
        parts = self._split_pattern.split(text)
        ids: list[int] = []
        for piece_ids, unencodable in zip(self._processor.encode(parts[::2], num_threads=1), [*parts[1::2], ""], strict=True):
            ids += piece_ids
            ids += self._symbol_ids.get(unencodable) or [
                self._byte_ids[byte] for byte in unencodable.encode("utf-8", "surrogateescape")
            ]
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        """Join the bytes of the pieces; special tokens are left out."""
        return b"".join([self._bytes[token_id] for token_id in ids])

    def describe(self, ids: Sequence[int]) -> str:
        """Return the decoded text; bytes that are not UTF-8 are replaced."""
        return self.decode(ids).decode("utf-8", "replace")

    def encode_prompt(self, text: str) -> list[int]:
        """Encode `text` after bos, as a training document begins."""
        return [SPECIAL_TOKENS["bos"], *self._encode_text(text)]

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        """Count the byte-fallback tokens: single bytes that no learned piece covers."""
        return int(np.isin(ids, self._byte_ids).sum())

    def export_vocab(self) -> ExportedVocab:
        """Return the vocabulary with spaces written as spaces.

        No learned piece contains the space marker itself.
        """
        ordinary = [i for i in range(self.vocab_size) if i not in SPECIAL_TOKENS.values()]
        text = {i: self._processor.id_to_piece(i).replace(SPACE_MARKER, " ") for i in ordinary}
        learned_ids = [i for i in ordinary if not self._processor.is_byte(i) and text[i] not in USER_SYMBOLS]
        learned_ids.sort(key=self._processor.get_score, reverse=True)
        scores = {text[i]: float(self._processor.get_score(i)) for i in learned_ids}
        model_type: SentencePieceModelType = "bpe" if all(score.is_integer() for score in scores.values()) else "unigram"
        return ExportedVocab(model_type, {text[i]: i for i in ordinary}, [text[i] for i in learned_ids], USER_SYMBOLS, scores)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.model`, and `metadata.json` with its SHA-256."""
        files.write_bytes(folder / "tokenizer.model", self.model_proto)
        metadata = {
            "type": TOKENIZER_TYPE,
            "vocab_size": self.vocab_size,
            "special_tokens": SPECIAL_TOKENS,
            "model_sha256": hashing.sha256_bytes(self.model_proto),
        }
        files.write_json(folder / "metadata.json", metadata)


def load_sentencepiece_tokenizer(folder: Path) -> SentencePieceTokenizer:
    """Load a saved tokenizer.

    Raises DataError if a file is missing, damaged or of another type.
    """
    try:
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        model_proto = (folder / "tokenizer.model").read_bytes()
        if metadata["type"] != TOKENIZER_TYPE:
            raise ValueError(f"type must be {TOKENIZER_TYPE!r}, got {metadata['type']!r}")
        if metadata["model_sha256"] != hashing.sha256_bytes(model_proto):
            raise ValueError("the SHA-256 of tokenizer.model differs from metadata.json")
        return SentencePieceTokenizer(model_proto)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{folder.as_posix()}: cannot load a SentencePiece tokenizer: {error}; run tokenize again") from None


def train_sentencepiece_tokenizer(
    read_records: Callable[[], Iterable[Record]],
    vocab_size: int,
    character_coverage: float,
    sample_bytes: int,
    model_type: SentencePieceModelType = "bpe",
) -> SentencePieceTokenizer:
    """Train a model of `vocab_size` pieces on about `sample_bytes` of the records.

    Records are sampled by hash of their ids. The same records and settings give the same model, byte for byte: SentencePiece writes
    the number of threads into the model, so training uses one. Raises ConfigError if the sample is too small or has too many
    characters for `vocab_size`.
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
        raise ConfigError(f"tokenize.{vocab_size_hint(vocab_size, str(error))}") from None
    return SentencePieceTokenizer(model_buffer.getvalue() if model_type == "bpe" else round_scores(model_buffer.getvalue()))


def round_scores(model_proto: bytes) -> bytes:
    """Round the scores of a serialized model to multiples of 1 / SCORE_STEPS."""
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
    """Yield field number, value begin and value end of a Protocol Buffers message."""

    def read_varint(offset: int) -> tuple[int, int]:
        """Return the number at `offset` and the offset after it."""
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
    """Return the lines of a hash-based sample of about `max_bytes`.

    Lines are split at MAX_LINE_CHARS. The unit of sampling is a block: a record, or SAMPLE_BLOCK_CHARS of a longer one, so that no
    single record dominates the sample.
    """
    total_bytes = sum(len(record.content) for record in read_records())
    fraction = max_bytes / max(1, total_bytes)
    lines = (line for record in read_records() for line in _sampled_blocks(record, fraction).replace(SPACE_MARKER, " ").split("\n"))
    return [line[start : start + MAX_LINE_CHARS] for line in lines if line.strip() for start in range(0, len(line), MAX_LINE_CHARS)]


def _sampled_blocks(record: Record, fraction: float) -> str:
    """Return the text of `record` with a line break for each block not sampled."""
    block_starts = range(0, max(1, len(record.content)), SAMPLE_BLOCK_CHARS)  # up to the bytes: at least as many as characters
    sampled_starts = {
        start for start in block_starts if rng.hash_to_unit(f"{record.id}+{start}" if start else record.id, "codec") < fraction
    }
    text = record.content.decode("utf-8", "replace") if sampled_starts else ""
    return "".join(text[start : start + SAMPLE_BLOCK_CHARS] if start in sampled_starts else "\n" for start in block_starts)


def vocab_size_hint(vocab_size: int, message: str) -> str:
    """Translate an error of SentencePiece's trainer into a key and its limit."""
    if max_match := re.search(r"set it to a value <= (\d+)", message):
        return f"vocab_size must be <= {max_match[1]} for this text, got {vocab_size}"
    if min_match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size must be >= {min_match[1]} for the characters of this text, got {vocab_size}; or lower character_coverage"
        )
    if "sentences_.empty()" in message:
        return "sample_bytes: the sample contains no text; raise sample_bytes or loosen the filter"
    return f"vocab_size: {' '.join(message.split())}"
