"""Nothing in; out, how many megabytes of text a CPU second each tokenizer encodes with one model of ours, and whether the ids are SentencePiece's.

The text lies on this machine: modules, documentation and notes; a third of it trains the model, the rest is encoded. A peer that is not
installed is left out with a line.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import sentencepiece
from comparisons.interleaved_timing import compare, keep, show
from comparisons.synthetic_corpus import texts

from provenlm.core.executors.base import batches
from provenlm.core.records import Record
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from provenlm.tokenizers.hf_export import tokenizer
from provenlm.tokenizers.sentencepiece_model import SentencePieceCodec

Ids = Sequence[Sequence[int] | np.ndarray]


def encoders(codec: SentencePieceCodec, records: Sequence[Record]) -> dict[str, Callable[[], Ids]]:
    """Ours as the tokenize stage uses it first; SentencePiece, Hugging Face's and fastokens as their authors say."""
    bodies = [record.body.decode() for record in records]
    quick = fastokens_backend.checked(codec, lambda: records)
    ways: dict[str, Callable[[], Ids]] = {
        "ours": lambda: [ids for batch in batches(records) for ids in quick.encode(batch)],
        "ours, by SentencePiece": lambda: [ids for batch in batches(records) for ids in codec.encode(batch)],
        "sentencepiece": partial(sentencepiece.SentencePieceProcessor(model_proto=codec.model).encode, bodies, num_threads=1),
    }
    published = json.dumps(tokenizer(codec))
    if importlib.util.find_spec("tokenizers"):
        from tokenizers import Tokenizer

        theirs = Tokenizer.from_str(published)
        theirs.encode_special_tokens = True
        ways["tokenizers"] = lambda: [theirs.encode(body, add_special_tokens=False).ids for body in bodies]
    else:
        print("  tokenizers: left out, it is not installed")
    if codec.pieces().model == "bpe":
        import fastokens

        ways["fastokens"] = partial(flat, fastokens.Tokenizer.from_json_str(published), bodies)
    else:
        print("  fastokens: left out, it reads no unigram models")
    return ways


def flat(theirs: object, bodies: Sequence[str]) -> Ids:
    ids, ends = theirs.encode_batch_flat(bodies, add_special_tokens=False, split_special_tokens=True)  # type: ignore[attr-defined]
    found = np.frombuffer(ids, "<u4")
    return [found[begin:end] for begin, end in pairwise(np.frombuffer(ends, "<u8").tolist())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--quick", action="store_true", help="2 megabytes, 4096 pieces, 1 round instead of 3")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    asked = parser.parse_args()
    megabytes, vocabulary, rounds = (2, 4096, 1) if asked.quick else (asked.megabytes, asked.vocabulary, 3)
    records = [Record.of(text.encode("utf-8", "replace"), "text/plain", "file") for text in texts(megabytes * 10**6)]
    learned, rest = records[: len(records) // 3], records[len(records) // 3 :]
    size, tables, facts = sum(len(record.body) for record in rest), [], {}
    models: tuple[sentencepiece_model.Model, ...] = ("bpe", "unigram")
    for model in models:
        codec = sentencepiece_model.learn(lambda: learned, vocabulary, 0.9995, 10**9, model)
        ways = encoders(codec, rest)
        lines = compare(f"encoding: {len(rest)} texts, {size / 1e6:.1f} MB, {vocabulary} pieces, {model}", ways, rounds)
        show(lines)
        right = ways["ours, by SentencePiece"]()
        print(f"  {'':34}{'MB/CPU s':>10}  texts whose ids are those of our codec by SentencePiece")
        for line in lines:
            same = sum(np.array_equal(one, other) for one, other in zip(ways[line.way](), right, strict=True))
            facts[f"{model}: {line.way}"] = {"megabytes_per_cpu_second": size / 1e3 / line.cpu_ms, "same": same, "of": len(rest)}
            print(f"  {line.way:34}{size / 1e3 / line.cpu_ms:10.1f}  {same} of {len(rest)}", flush=True)
        tables += lines
    if asked.json:
        keep(asked.json, tables, facts)


if __name__ == "__main__":
    sys.exit(main())
