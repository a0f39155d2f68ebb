"""Encode with fastokens after checking that its ids equal SentencePiece's.

fastokens (Apache-2.0) is about six times as fast and reads our `tokenizer.json`. It is a young project: before it is used,
both encode a few hundred records and adversarial texts. If a single id differs, SentencePiece encodes everything, and a log line
says so.
"""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from itertools import pairwise

import fastokens
import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.progress import log_line
from provenlm.core.records import Record
from provenlm.tokenizers.hf_export import to_tokenizer_json
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer

NUM_COMPARED_RECORDS = 300  # sampled by hash
MAX_RECORD_BYTES = 1 << 16  # of each sampled record
ADVERSARIAL_TEXTS = (
    "", " ", "  a   ", "\n", "\n\n\n", " \n\n\n \n", "\t\t ", "a\r\nb\rc", "▁", "a▁b ▁▁", "<s></s><pad><unk>", "<0x0A><0xE2>", "\0", "a\0\0b",
    "\ufeff\ufffd\uffff", "e\u0301é\u00a0\u2003\u3000\u200b", "漢字 ภาษา العربية हिन्दी", "👩‍👩‍👧‍👦 🏳️‍🌈", "".join(map(chr, range(256))), "x" * 3000, " y" * 3000,
    "0123456789 1e-5 0x1F", "aaaaaaaaaaaaaab" * 50, "_____-----=====" * 9,
)  # fmt: skip


class FastokensBackend:
    """Encode texts with fastokens.

    `tokenizer_json` is the content of a tokenizer.json.
    """

    def __init__(self, tokenizer_json: str) -> None:
        self.tokenizer_json = tokenizer_json
        self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer_json)

    def __reduce__(self) -> tuple[type["FastokensBackend"], tuple[str]]:
        return FastokensBackend, (self.tokenizer_json,)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Encode each text as uint32 (tokens,), without special tokens."""
        id_buffer, offset_buffer = self._tokenizer.encode_batch_flat(
            list(texts), add_special_tokens=False, split_special_tokens=True
        )
        token_ids, offsets = np.frombuffer(id_buffer, "<u4"), np.frombuffer(offset_buffer, "<u8").tolist()
        return [token_ids[begin:end] for begin, end in pairwise(offsets)]


def attach_verified_backend(
    tokenizer: SentencePieceTokenizer, read_records: Callable[[], Iterable[Record]]
) -> SentencePieceTokenizer:
    """Return `tokenizer` with a fastokens backend if both agree on a sample.

    fastokens does not support unigram models.
    """
    if tokenizer.export_vocab().model_type != "bpe":
        return tokenizer
    fast_tokenizer = SentencePieceTokenizer(tokenizer.model_proto, FastokensBackend(json.dumps(to_tokenizer_json(tokenizer))))
    mismatch = next(find_mismatches(tokenizer, fast_tokenizer, sample_records(read_records)), None)
    if mismatch is not None:
        version = metadata.version("fastokens")
        log_line(
            f"fastokens {version} and SentencePiece give different ids for {mismatch.source}: encoding with SentencePiece, slower"
        )
    return tokenizer if mismatch is not None else fast_tokenizer


def sample_records(read_records: Callable[[], Iterable[Record]]) -> list[Record]:
    """Return the adversarial texts and records sampled by hash of their ids."""
    adversarial = [Record.from_content(text.encode("utf-8"), "text/plain", f"the text {text[:20]!r}") for text in ADVERSARIAL_TEXTS]
    sampled = heapq.nsmallest(NUM_COMPARED_RECORDS, read_records(), key=lambda record: rng.hash_to_unit(record.id, "fast"))
    return [
        *adversarial,
        *(Record.from_content(record.content[:MAX_RECORD_BYTES], record.media_type, record.source) for record in sampled),
    ]


def find_mismatches(
    tokenizer: SentencePieceTokenizer, fast_tokenizer: SentencePieceTokenizer, records: Sequence[Record]
) -> Iterator[Record]:
    """Yield the records to which the two tokenizers give different ids."""
    pairs = zip(tokenizer.encode(records), fast_tokenizer.encode(records), records, strict=True)
    return (record for expected, actual, record in pairs if not np.array_equal(expected, actual))
