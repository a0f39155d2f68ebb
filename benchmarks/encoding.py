"""Time tokenizers on the same model and compare their ids with SentencePiece's.

The speed is in megabytes of text per CPU second.

The texts are modules and documentation of this machine; a third of them trains the model and the rest is encoded. Peers that are not
installed are skipped with a line.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import sentencepiece
from comparisons import results
from comparisons.interleaved_timing import compare_in_turns, print_table
from comparisons.results import ResultRow
from comparisons.synthetic_corpus import local_texts

from provenlm.core.executors.base import batch_records
from provenlm.core.records import Record
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from provenlm.tokenizers.hf_export import to_tokenizer_json
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer

Ids = Sequence[Sequence[int] | np.ndarray]
REFERENCE = "ours, by SentencePiece"


def make_encoders(sp_tokenizer: SentencePieceTokenizer, records: Sequence[Record]) -> dict[str, Callable[[], Ids]]:
    """Return functions that encode all records: ours, then the peers.

    Ours is used as in the tokenize stage, the peers as documented.
    """
    contents = [record.content.decode() for record in records]
    fast_tokenizer = fastokens_backend.attach_verified_backend(sp_tokenizer, lambda: records)
    processor = sentencepiece.SentencePieceProcessor(model_proto=sp_tokenizer.model_proto)
    encoders: dict[str, Callable[[], Ids]] = {
        "ours": lambda: [ids for batch in batch_records(records) for ids in fast_tokenizer.encode(batch)],
        REFERENCE: lambda: [ids for batch in batch_records(records) for ids in sp_tokenizer.encode(batch)],
        "sentencepiece": partial(processor.encode, contents, num_threads=1),
    }
    tokenizer_json = json.dumps(to_tokenizer_json(sp_tokenizer))
    if importlib.util.find_spec("tokenizers"):
        from tokenizers import Tokenizer

        hf_tokenizer = Tokenizer.from_str(tokenizer_json)
        hf_tokenizer.encode_special_tokens = True
        encoders["tokenizers"] = lambda: [hf_tokenizer.encode(content, add_special_tokens=False).ids for content in contents]
    else:
        print("  tokenizers: skipped, not installed")
    if sp_tokenizer.export_vocab().model_type == "bpe":
        import fastokens

        encoders["fastokens"] = partial(encode_flat, fastokens.Tokenizer.from_json_str(tokenizer_json), contents)
    else:
        print("  fastokens: skipped, it does not read unigram models")
    return encoders


def encode_flat(peer_tokenizer: object, contents: Sequence[str]) -> Ids:
    """Encode with fastokens, which returns the ids of all texts in one buffer."""
    ids, ends = peer_tokenizer.encode_batch_flat(contents, add_special_tokens=False, split_special_tokens=True)  # type: ignore[attr-defined]
    all_ids = np.frombuffer(ids, "<u4")
    return [all_ids[start:end] for start, end in pairwise(np.frombuffer(ends, "<u8").tolist())]


def compare_encoders(
    model_type: sentencepiece_model.SentencePieceModelType, records: Sequence[Record], vocab_size: int, rounds: int
) -> list[ResultRow]:
    """Train a model on a third of the records and time all encoders on the rest."""
    train_records, test_records = records[: len(records) // 3], records[len(records) // 3 :]
    sp_tokenizer = sentencepiece_model.train_sentencepiece_tokenizer(lambda: train_records, vocab_size, 0.9995, 10**9, model_type)
    encoders = make_encoders(sp_tokenizer, test_records)
    num_bytes = sum(len(record.content) for record in test_records)
    timings = compare_in_turns(model_type, encoders, rounds)
    print_table(timings, f"{len(test_records)} texts, {num_bytes / 1e6:.1f} MB, {vocab_size} pieces")
    reference_ids = encoders[REFERENCE]()
    print(f"  {'':34}{'MB/CPU s':>10}  texts with the ids of SentencePiece")
    rows = []
    for timing in timings:
        all_ids = encoders[timing.implementation]()
        num_equal = sum(np.array_equal(ids, expected_ids) for ids, expected_ids in zip(all_ids, reference_ids, strict=True))
        speed = num_bytes / 1e3 / timing.cpu_ms
        print(f"  {timing.implementation:34}{speed:10.1f}  {num_equal} of {len(test_records)}", flush=True)
        name = f"{model_type}: {timing.implementation}"
        rows.append(ResultRow(f"{name}, speed", speed, "MB/CPU s", 1 / timing.cpu_ratio))
        rows.append(ResultRow(f"{name}, equal ids", num_equal / len(test_records), "fraction"))
    return rows


def main() -> None:
    """Time both model types and write benchmarks/results/encoding.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "2 megabytes, 4096 pieces and 1 round instead of 3")
    parser.add_argument("--megabytes", type=int, default=6, metavar="N", help="size of the texts (default: 6)")
    parser.add_argument("--vocab-size", type=int, default=8_192, metavar="N", help="number of pieces (default: 8192)")
    options = parser.parse_args()
    megabytes, vocab_size, rounds = (2, 4096, 1) if options.quick else (options.megabytes, options.vocab_size, 3)
    records = [
        Record.from_content(text.encode("utf-8", "replace"), "text/plain", "file") for text in local_texts(megabytes * 10**6)
    ]
    rows = [row for model_type in ("bpe", "unigram") for row in compare_encoders(model_type, records, vocab_size, rounds)]
    results.save_results("encoding", rows, options)


if __name__ == "__main__":
    main()
