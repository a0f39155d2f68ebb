"""Train a tokenizer and write the token arrays.

The tokenizer is trained on the training split; the arrays cover both splits.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.core import interfaces, io, records, registry
from provenlm.core.audit import read_audit
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.executors.base import RecordMap, RecordSource
from provenlm.core.interfaces import Tokenizer
from provenlm.core.progress import ProgressReporter, log_line, progress_bar
from provenlm.core.records import Record
from provenlm.data import integrity, metrics, token_dataset
from provenlm.data.token_dataset import TokenizedDocument
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer
from stages import runner

MAX_PART_CHARS = 1 << 20  # of a text that is encoded at once; an encoder needs about 50 bytes per character


def run_stage(context: runner.StageContext) -> None:
    """Tokenize a corpus and record tokenizer, integrity and retention metrics.

    Raises ConfigError if no record is left to train on.
    """
    spec = registry.load_domain(context.entry["domain"], "tokenize", interfaces.TokenizeSpec)
    config: Any = context.parse_section("tokenize", spec.config_type)
    source = context.declare_input(context.paths.corpus_dir(context.subject, "deduped"))
    upstream_audits = {
        name: read_audit(context.declare_input(context.paths.audit_json(context.subject, name)))
        for name in ("scrape", "filter", "dedupe")
    }
    target = context.declare_output(context.paths.corpus_dir(context.subject, "tokens"))
    metrics.check_lineage(upstream_audits, records.count_records(source))
    val_fraction = spec.val_fraction(config)

    def training_records() -> Iterator[Record]:
        return (
            item
            for item in records.read_records(source)
            if token_dataset.assign_split(require_cluster(item), val_fraction) == "train"
        )

    if next(training_records(), None) is None:
        location = context.params.location("corpora", context.subject, "tokenize")
        num_records = records.count_records(source)
        raise ConfigError(
            f"{location}.val_fraction: must leave at least one of {num_records} records to train on, got {val_fraction}"
        )
    tally = metrics.TokenizeTally()
    with (
        io.atomic_dir(target) as folder,
        progress_bar(f"tokenize {context.subject}", "records", records.count_records(source)) as bar,
    ):
        tokenizer = spec.train(config, training_records)
        tokenizer.save(folder / "tokenizer")
        documents = encode_documents(context.open_records(source), tokenizer, val_fraction, tally, bar)
        token_dataset.write_token_dataset(
            folder, documents, tokenizer.vocab_size, tokenizer.special_tokens, val_fraction, tokenizer.token_classes
        )
    tokens = token_dataset.load_token_dataset(target)
    canonical = partial(spec.canonical, tokenizer) if spec.canonical else None
    metrics.record_tokenize_metrics(context.recorder, tokenizer, tally)
    integrity_result = integrity.check_integrity(
        records.read_records(source), tokens, tokenizer, spec.contamination_prompts(config), canonical
    )
    integrity.record_integrity(context.recorder, integrity_result)
    metrics.record_accounting(context.recorder, upstream_audits, tally, len(tokens.train.ids) + len(tokens.val.ids))
    context.recorder.tables.append(metrics.retention_table(upstream_audits, tally))
    retention = tally.bytes["train"] / max(1, metrics.metric_value(upstream_audits, "scrape", "bytes"))
    context.recorder.add_count(
        "retention", round(retention, 6), "fraction", "Fraction of the scraped bytes that is in the training tokens"
    )
    log_line(f"{context.subject}: {summary_line(tally, integrity_result)}")


def summary_line(tally: metrics.TokenizeTally, result: integrity.IntegrityResult) -> str:
    """Say in one line what became of every record."""
    splits = ", ".join(f"{name} {count} ({tally.tokens[name]} tokens)" for name, count in tally.documents.items())
    return (
        f"tokenized {sum(tally.documents.values())} records: {splits}; "
        f"{len(result.missing)} missing, {len(result.mismatched)} decode to other bytes"
    )


def require_cluster(item: Record) -> str:
    """Return the duplicate cluster of a record.

    Raises DataError if there is none: near-duplicates could be in both splits.
    """
    cluster = item.metadata.get("cluster")
    if not isinstance(cluster, str):
        raise DataError(f"record {item.id} from {item.source}: must have a `cluster` in its metadata; run dedupe again")
    return cluster


def make_encode_step(tokenizer: Tokenizer) -> RecordMap[NDArray[np.uint32]]:
    """Create the record map that encodes records, long texts in parts."""
    joined = joined_pairs(tokenizer)

    def encode(batch: Sequence[Record]) -> Sequence[NDArray[np.uint32]]:
        if joined is None or all(len(record.content) <= MAX_PART_CHARS for record in batch):
            return tokenizer.encode(batch)
        return [
            np.concatenate([tokenizer.encode([part])[0] for part in split_record(record, joined, MAX_PART_CHARS)])
            for record in batch
        ]

    return RecordMap(encode, lambda ids: ids.tobytes(), lambda data: np.frombuffer(data, np.uint32))


def joined_pairs(tokenizer: Tokenizer) -> frozenset[str] | None:
    """Return all pairs of characters inside the pieces of a BPE tokenizer.

    Between two characters that are no such pair, no piece can form, so that both sides have the same ids alone as in one text. None
    for other tokenizers.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer) or (vocab := tokenizer.export_vocab()).model_type != "bpe":
        return None
    return frozenset(first + second for piece in vocab.ids for first, second in pairwise(piece))


def split_record(record: Record, joined: Collection[str], max_chars: int) -> Iterator[Record]:
    """Cut a record into parts of at least `max_chars`, each at the next safe place.

    That is between two characters that are not in `joined`.
    """
    text = record.content.decode("utf-8", "surrogateescape")
    start = 0
    while start < len(text) or start == 0:
        end = start + max_chars
        while end < len(text) and text[end - 1 : end + 1] in joined:
            end += 1
        yield record.with_content(text[start:end].encode("utf-8", "surrogateescape"))
        start = end


def encode_documents(
    corpus: RecordSource, tokenizer: Tokenizer, val_fraction: float, tally: metrics.TokenizeTally, bar: ProgressReporter
) -> Iterator[TokenizedDocument]:
    """Yield each record as a tokenized document and count it in `tally`."""
    for item, ids in corpus.map(make_encode_step(tokenizer)):
        cluster = require_cluster(item)
        split = token_dataset.assign_split(cluster, val_fraction)
        num_special = sum(name in tokenizer.special_tokens for name in ("bos", "eos"))
        tally.documents[split] += 1
        tally.tokens[split] += len(ids) + num_special
        tally.bytes[split] += len(item.content)
        tally.clusters[split].add(cluster)
        tally.doc_lengths.append(len(ids) + num_special)
        tally.content_tokens += len(ids)
        tally.content_words += len(item.content.split())
        tally.unknown_tokens += tokenizer.count_unknown(ids)
        bar.update()
        yield TokenizedDocument(item.id, cluster, len(item.content), ids)


if __name__ == "__main__":
    runner.main("tokenize", "corpora", run_stage, __doc__)
