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
from comparisons.interleaved_timing import compare_in_turns, print_table, save_json
from comparisons.synthetic_corpus import local_texts

from provenlm.core.executors.base import batch_records
from provenlm.core.records import Record
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from provenlm.tokenizers.hf_export import to_tokenizer_json
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer

Ids = Sequence[Sequence[int] | np.ndarray]


def make_encoders(sp_tokenizer: SentencePieceTokenizer, records: Sequence[Record]) -> dict[str, Callable[[], Ids]]:
    """Ours as the tokenize stage uses it first; SentencePiece, Hugging Face's and fastokens as their authors say."""
    contents = [record.content.decode() for record in records]
    fast_tokenizer = fastokens_backend.attach_verified_backend(sp_tokenizer, lambda: records)
    encode_functions: dict[str, Callable[[], Ids]] = {
        "ours": lambda: [ids for batch in batch_records(records) for ids in fast_tokenizer.encode(batch)],
        "ours, by SentencePiece": lambda: [ids for batch in batch_records(records) for ids in sp_tokenizer.encode(batch)],
        "sentencepiece": partial(
            sentencepiece.SentencePieceProcessor(model_proto=sp_tokenizer.model_proto).encode, contents, num_threads=1
        ),
    }
    tokenizer_json = json.dumps(to_tokenizer_json(sp_tokenizer))
    if importlib.util.find_spec("tokenizers"):
        from tokenizers import Tokenizer

        hf_tokenizer = Tokenizer.from_str(tokenizer_json)
        hf_tokenizer.encode_special_tokens = True
        encode_functions["tokenizers"] = lambda: [
            hf_tokenizer.encode(content, add_special_tokens=False).ids for content in contents
        ]
    else:
        print("  tokenizers: left out, it is not installed")
    if sp_tokenizer.export_vocab().model_type == "bpe":
        import fastokens

        encode_functions["fastokens"] = partial(encode_flat, fastokens.Tokenizer.from_json_str(tokenizer_json), contents)
    else:
        print("  fastokens: left out, it reads no unigram models")
    return encode_functions


def encode_flat(peer_tokenizer: object, contents: Sequence[str]) -> Ids:
    ids, ends = peer_tokenizer.encode_batch_flat(contents, add_special_tokens=False, split_special_tokens=True)  # type: ignore[attr-defined]
    all_ids = np.frombuffer(ids, "<u4")
    return [all_ids[begin:end] for begin, end in pairwise(np.frombuffer(ends, "<u8").tolist())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--quick", action="store_true", help="2 megabytes, 4096 pieces, 1 round instead of 3")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    options = parser.parse_args()
    megabytes, vocab_size, rounds = (2, 4096, 1) if options.quick else (options.megabytes, options.vocabulary, 3)
    records = [
        Record.from_content(text.encode("utf-8", "replace"), "text/plain", "file") for text in local_texts(megabytes * 10**6)
    ]
    train_records, test_records = records[: len(records) // 3], records[len(records) // 3 :]
    size, tables, metadata = sum(len(record.content) for record in test_records), [], {}
    models: tuple[sentencepiece_model.SentencePieceModelType, ...] = ("bpe", "unigram")
    for model in models:
        sp_tokenizer = sentencepiece_model.train_sentencepiece_tokenizer(lambda: train_records, vocab_size, 0.9995, 10**9, model)
        encode_functions = make_encoders(sp_tokenizer, test_records)
        timings = compare_in_turns(
            f"encoding: {len(test_records)} texts, {size / 1e6:.1f} MB, {vocab_size} pieces, {model}", encode_functions, rounds
        )
        print_table(timings)
        reference_ids = encode_functions["ours, by SentencePiece"]()
        print(f"  {'':34}{'MB/CPU s':>10}  texts whose ids are those of our codec by SentencePiece")
        for timing in timings:
            same = sum(
                np.array_equal(ids, expected_ids)
                for ids, expected_ids in zip(encode_functions[timing.implementation](), reference_ids, strict=True)
            )
            metadata[f"{model}: {timing.implementation}"] = {
                "megabytes_per_cpu_second": size / 1e3 / timing.cpu_ms,
                "same": same,
                "of": len(test_records),
            }
            print(f"  {timing.implementation:34}{size / 1e3 / timing.cpu_ms:10.1f}  {same} of {len(test_records)}", flush=True)
        tables += timings
    if options.json:
        save_json(options.json, tables, metadata)


if __name__ == "__main__":
    sys.exit(main())
