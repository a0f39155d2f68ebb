"""Measure the tokenized corpus and account for all data of the pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provenlm.core.audit import Audit, AuditTable, MetricRecorder, PlotSeries
from provenlm.core.errors import DataError
from provenlm.core.interfaces import Tokenizer
from provenlm.data.token_dataset import SPLIT_NAMES

AUDIT_LINKS = (  # a count that a stage wrote, and the same count as the next stage read it
    ("scrape", "records", "filter", "records.in"),
    ("scrape", "bytes", "filter", "bytes.in"),
    ("filter", "records.kept", "dedupe", "records.in"),
    ("filter", "bytes.kept", "dedupe", "bytes.in"),
)
SPLIT_LABELS = {"train": "training", "val": "validation"}


@dataclass
class TokenizeTally:
    """Count what was encoded, by split."""

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLIT_NAMES, 0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLIT_NAMES, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLIT_NAMES, 0))
    clusters: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in SPLIT_NAMES})
    doc_lengths: list[int] = field(default_factory=list)  # tokens of each document
    content_tokens: int = 0  # without special tokens
    content_words: int = 0
    unknown_tokens: int = 0


def check_lineage(upstream_audits: Mapping[str, Audit], num_deduped: int) -> None:
    """Compare what each stage read with what the stage before it wrote.

    Raises DataError at a difference.
    """
    links = [(*link, metric_value(upstream_audits, *link[:2]), metric_value(upstream_audits, *link[2:])) for link in AUDIT_LINKS]
    num_unique = metric_value(upstream_audits, "dedupe", "records.unique")
    links.append(("dedupe", "records.unique", "tokenize", "records.in", num_unique, num_deduped))
    for producer, produced_metric, consumer, consumed_metric, produced, consumed in links:
        if produced != consumed:
            raise DataError(
                f"{consumer}.{consumed_metric}: must equal {producer}.{produced_metric} = {produced}, got {consumed}; "
                f"run `dvc repro` from {producer} on"
            )


def metric_value(upstream_audits: Mapping[str, Audit], stage_name: str, name: str) -> int:
    """Return a metric of an earlier stage.

    Raises DataError if its audit has none of that name.
    """
    metrics = upstream_audits[stage_name].metrics
    if name not in metrics:
        raise DataError(f"audit of {stage_name}: must contain metric {name!r}, got none; run {stage_name} again")
    return int(metrics[name].value)


def record_tokenize_metrics(audit: MetricRecorder, tokenizer: Tokenizer, tally: TokenizeTally) -> None:
    """Record sizes by split, the fertility of the tokenizer and document lengths."""
    num_documents = len(tally.doc_lengths)
    audit.add_count("vocab_size", tokenizer.vocab_size, "ids", "Vocabulary size: number of token ids, special tokens included")
    audit.add_count("records.in", num_documents, "records", "Deduplicated records that were tokenized")
    for split in SPLIT_NAMES:
        label = SPLIT_LABELS[split]
        audit.add_count(f"documents.{split}", tally.documents[split], "documents", f"Documents in the {label} split")
        audit.add_count(f"tokens.{split}", tally.tokens[split], "tokens", f"Tokens in the {label} split, special tokens included")
        audit.add_count(f"bytes.{split}", tally.bytes[split], "bytes", f"Bytes of the documents in the {label} split")
        audit.add_count(f"clusters.{split}", len(tally.clusters[split]), "clusters", f"Duplicate clusters in the {label} split")
    unaccounted = num_documents - sum(tally.documents.values())
    audit.add_count("unaccounted", unaccounted, "records", "Records read minus documents in both splits: 0 if no record was lost")
    audit.add_check("unaccounted", "== 0", "records were lost in tokenize: each must be a document of one split")
    num_shared = len(tally.clusters["train"] & tally.clusters["val"])
    audit.add_count("split.shared_clusters", num_shared, "clusters", "Duplicate clusters with documents in both splits")
    audit.add_check("split.shared_clusters", "== 0", "near-duplicates are in both splits: the split must be by cluster")
    bytes_per_token = round(sum(tally.bytes.values()) / max(1, tally.content_tokens), 4)
    audit.add_measurement("bytes_per_token", bytes_per_token, "bytes", "Bytes of all documents per token, without special tokens")
    tokens_per_word = round(tally.content_tokens / max(1, tally.content_words), 4)
    audit.add_measurement(
        "tokens_per_word", tokens_per_word, "tokens", "Fertility of the tokenizer: tokens per word, split at ASCII whitespace"
    )
    description = "Byte-fallback tokens: single bytes or unknown pieces that no learned token covers"
    audit.add_count("tokens.byte_fallback", tally.unknown_tokens, "tokens", description)
    audit.series.append(length_histogram(tally))


def length_histogram(tally: TokenizeTally) -> PlotSeries:
    """Count documents by length in bins that double."""
    bins = max(tally.doc_lengths).bit_length() + 1
    counts = [0] * bins
    for num_tokens in tally.doc_lengths:
        counts[num_tokens.bit_length()] += 1
    edges = [0.0, *(2.0**power for power in range(bins))]
    return PlotSeries("lengths", "hist", "Documents by length", "tokens of a document", "documents", edges, {"documents": counts})


def retention_table(upstream_audits: Mapping[str, Audit], tally: TokenizeTally) -> AuditTable:
    """Tabulate what remains after each step, from downloaded bytes to tokens."""

    def value(stage_name: str, name: str) -> int:
        """Return a metric of an earlier stage."""
        return metric_value(upstream_audits, stage_name, name)

    scraped_bytes = value("scrape", "bytes")
    steps: list[tuple[str, int, int, int | str]] = [
        ("downloaded", value("scrape", "urls.seen"), value("scrape", "download.bytes"), ""),
        ("scraped", value("scrape", "records"), scraped_bytes, ""),
        ("kept by the filter", value("filter", "records.kept"), value("filter", "bytes.kept"), ""),
        ("deduplicated", value("dedupe", "records.unique"), value("dedupe", "bytes.unique"), ""),
        ("training split", tally.documents["train"], tally.bytes["train"], tally.tokens["train"]),
    ]
    rows = [
        (name, count, num_bytes, round(num_bytes / max(1, scraped_bytes), 6), tokens) for name, count, num_bytes, tokens in steps
    ]
    columns = ("step", "records", "bytes", "fraction of the scraped bytes", "tokens")
    return AuditTable("retention", "What remains after each step, from downloaded bytes to training tokens", columns, rows)


def record_accounting(
    audit: MetricRecorder, upstream_audits: Mapping[str, Audit], tally: TokenizeTally, num_stored_tokens: int
) -> None:
    """Record whether all input of every stage is output or dropped for a reason.

    `num_stored_tokens` are the tokens on disk.
    """

    def value(stage_name: str, *names: str) -> int:
        """Return the sum of metrics of an earlier stage."""
        return sum(metric_value(upstream_audits, stage_name, name) for name in names)

    kept_bytes, unique_bytes = value("filter", "bytes.kept"), value("dedupe", "bytes.unique")
    accounted_urls = value("scrape", "records", "urls.skipped", "urls.failed")
    steps = (
        ("scrape", "URLs", value("scrape", "urls.seen"), accounted_urls, "records, skipped, failed"),
        (
            "filter",
            "bytes",
            value("scrape", "bytes"),
            kept_bytes + value("filter", "bytes.dropped", "bytes.masked"),
            "kept, dropped, masked",
        ),
        ("dedupe", "bytes", kept_bytes, unique_bytes + value("dedupe", "bytes.removed"), "unique, removed"),
        ("tokenize", "bytes", unique_bytes, sum(tally.bytes.values()), "training, validation"),
        ("tokenize", "tokens", sum(tally.tokens.values()), num_stored_tokens, "tokens in the arrays on disk"),
    )
    rows = [
        (step, quantity, num_in, num_out, output_parts, num_in - num_out) for step, quantity, num_in, num_out, output_parts in steps
    ]
    total = sum(abs(row[-1]) for row in rows)
    description = "Sum of the column `unaccounted` of the table `pipeline`: 0 if no stage lost anything"
    audit.add_count("pipeline.unaccounted_total", total, "differences", description)
    audit.add_check("pipeline.unaccounted_total", "== 0", "data were lost between two stages: the table `pipeline` shows where")
    columns = ("stage", "quantity", "in", "out", "out as", "unaccounted")
    audit.tables.append(AuditTable("pipeline", "Input and output of every stage, from URLs to tokens", columns, rows))
