"""A SentencePiece codec and records in; the codec out that encodes them some six times as fast, where its ids were seen to be the same.

fastokens (Apache-2.0) reads what we publish for Hugging Face's tokenizers. It is young: before it is used, SentencePiece encodes some
hundreds of the records and texts made to confuse too, and a single different id leaves the work to SentencePiece, with a line that says so.
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
from provenlm.core.progress import say
from provenlm.core.records import Record
from provenlm.tokenizers.hf_export import tokenizer
from provenlm.tokenizers.sentencepiece_model import SentencePieceCodec

COMPARED = 300  # records, chosen by hash
HEAD = 1 << 16  # bytes of each
CONFUSING = (
    "", " ", "  a   ", "\n", "\n\n\n", " \n\n\n \n", "\t\t ", "a\r\nb\rc", "▁", "a▁b ▁▁", "<s></s><pad><unk>", "<0x0A><0xE2>", "\0", "a\0\0b",
    "\ufeff\ufffd\uffff", "e\u0301é\u00a0\u2003\u3000\u200b", "漢字 ภาษา العربية हिन्दी", "👩‍👩‍👧‍👦 🏳️‍🌈", "".join(map(chr, range(256))), "x" * 3000, " y" * 3000,
    "0123456789 1e-5 0x1F", "aaaaaaaaaaaaaab" * 50, "_____-----=====" * 9,
)  # fmt: skip


class Fastokens:
    """`published`: a tokenizer.json."""

    def __init__(self, published: str) -> None:
        self.published = published
        self._tokenizer = fastokens.Tokenizer.from_json_str(published)

    def __reduce__(self) -> tuple[type["Fastokens"], tuple[str]]:
        return Fastokens, (self.published,)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        ids, ends = self._tokenizer.encode_batch_flat(list(texts), add_special_tokens=False, split_special_tokens=True)
        found, offsets = np.frombuffer(ids, "<u4"), np.frombuffer(ends, "<u8").tolist()
        return [found[begin:end] for begin, end in pairwise(offsets)]


def checked(codec: SentencePieceCodec, read: Callable[[], Iterable[Record]]) -> SentencePieceCodec:
    """`codec` with fastokens to encode for it, if both agree on a sample of the records; else `codec`. It knows no unigram models."""
    if codec.pieces().model != "bpe":
        return codec
    fast = SentencePieceCodec(codec.model, Fastokens(json.dumps(tokenizer(codec))))
    found = next(differing(codec, fast, sample(read)), None)
    if found is not None:
        version = metadata.version("fastokens")
        say(f"fastokens {version} encodes {found.source} otherwise than SentencePiece does, which will encode alone, slower")
    return codec if found is not None else fast


def sample(read: Callable[[], Iterable[Record]]) -> list[Record]:
    made = [Record.of(text.encode("utf-8"), "text/plain", f"the text {text[:20]!r}") for text in CONFUSING]
    chosen = heapq.nsmallest(COMPARED, read(), key=lambda record: rng.share_of(record.id, "fast"))
    return [*made, *(Record.of(record.body[:HEAD], record.media_type, record.source) for record in chosen)]


def differing(codec: SentencePieceCodec, fast: SentencePieceCodec, records: Sequence[Record]) -> Iterator[Record]:
    both = zip(codec.encode(records), fast.encode(records), records, strict=True)
    return (record for one, other, record in both if not np.array_equal(one, other))
