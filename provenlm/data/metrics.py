"""What was encoded, and the audits of the stages before, in; figures, and what is left of the corpus at each step, out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provenlm.core.audit import Audit, AuditTable, MetricRecorder, PlotSeries
from provenlm.core.errors import ProvenlmError
from provenlm.core.interfaces import Tokenizer
from provenlm.data.token_dataset import SPLIT_NAMES

AUDIT_LINKS = (  # a count that a stage wrote and the same count as the next one read it
    ("scrape", "records", "filter", "records.in"),
    ("scrape", "bytes", "filter", "bytes.in"),
    ("filter", "records.kept", "dedupe", "records.in"),
    ("filter", "bytes.kept", "dedupe", "bytes.in"),
)


@dataclass
class TokenizeTally:
    """What was encoded, by side of the split."""

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLIT_NAMES, 0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLIT_NAMES, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLIT_NAMES, 0))
    clusters: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in SPLIT_NAMES})
    doc_lengths: list[int] = field(default_factory=list)  # tokens of each document
    content_tokens: int = 0  # without special ones
    content_words: int = 0
    unknown_tokens: int = 0


def check_lineage(upstream_audits: Mapping[str, Audit], num_deduped: int) -> None:
    """ProvenlmError unless each stage read what the one before it wrote."""
    links = [(*link, metric_value(upstream_audits, *link[:2]), metric_value(upstream_audits, *link[2:])) for link in AUDIT_LINKS]
    links.append(
        (
            "dedupe",
            "records.unique",
            "tokenize",
            "records in",
            metric_value(upstream_audits, "dedupe", "records.unique"),
            num_deduped,
        )
    )
    for producer, produced_metric, consumer, consumed_metric, produced, consumed in links:
        if produced != consumed:
            raise ProvenlmError(
                f"{producer} says {produced_metric} = {produced}, but {consumer} says {consumed_metric} = {consumed}; run `dvc repro` from {producer} on"
            )


def metric_value(upstream_audits: Mapping[str, Audit], stage_name: str, name: str) -> int:
    metrics = upstream_audits[stage_name].metrics
    if name not in metrics:
        raise ProvenlmError(f"the audit of {stage_name} holds no figure {name!r}; run {stage_name} again")
    return int(metrics[name].value)


def record_tokenize_metrics(audit: MetricRecorder, tokenizer: Tokenizer, tally: TokenizeTally) -> None:
    num_documents = len(tally.doc_lengths)
    audit.add_count("vocabulary", tokenizer.vocab_size, "ids", "distinct token ids, special ones included")
    audit.add_count("records.in", num_documents, "records", "unique records that were encoded")
    for split, name in (("train", "training"), ("val", "held-out")):
        audit.add_count(f"documents.{split}", tally.documents[split], "documents", f"records on the {name} side")
        audit.add_count(f"tokens.{split}", tally.tokens[split], "tokens", f"tokens on the {name} side, special ones included")
        audit.add_count(f"bytes.{split}", tally.bytes[split], "bytes", f"bodies on the {name} side")
        audit.add_count(f"clusters.{split}", len(tally.clusters[split]), "clusters", f"duplicate clusters on the {name} side")
    unaccounted = num_documents - sum(tally.documents.values())
    audit.add_count("balance", unaccounted, "records", "records in, less documents of both sides: 0 if none was lost")
    shared_clusters = len(tally.clusters["train"] & tally.clusters["val"])
    audit.add_count(
        "clusters.overlap", shared_clusters, "clusters", "duplicate clusters with records on both sides: 0 if none straddles"
    )
    per_token = sum(tally.bytes.values()) / max(1, tally.content_tokens)
    audit.add_measurement(
        "bytes_per_token", round(per_token, 4), "bytes", "bytes of all bodies by their tokens, special ones left out"
    )
    description = "tokens by words, which are runs without ASCII whitespace: the fertility of the codec"
    audit.add_measurement("tokens_per_word", round(tally.content_tokens / max(1, tally.content_words), 4), "tokens", description)
    description = "tokens that stand for a single byte or an unknown piece, because no learned token covers it"
    audit.add_count("unlearned", tally.unknown_tokens, "tokens", description)
    audit.series.append(length_histogram(tally))


def length_histogram(tally: TokenizeTally) -> PlotSeries:
    """Documents by length, in bins that double."""
    bins = max(tally.doc_lengths).bit_length() + 1
    counts = [0] * bins
    for num_tokens in tally.doc_lengths:
        counts[num_tokens.bit_length()] += 1
    edges = [0.0, *(2.0**power for power in range(bins))]
    return PlotSeries("lengths", "bars", "documents by length", "tokens of a document", "documents", edges, {"documents": counts})


def retention_table(upstream_audits: Mapping[str, Audit], tally: TokenizeTally) -> AuditTable:
    """From what was fetched to what the trainer will see."""
    scraped_bytes = metric_value(upstream_audits, "scrape", "bytes")
    steps: list[tuple[str, int, int, int | str]] = [
        (
            "fetched",
            metric_value(upstream_audits, "scrape", "addresses"),
            metric_value(upstream_audits, "scrape", "bytes_received"),
            "",
        ),
        ("scraped", metric_value(upstream_audits, "scrape", "records"), scraped_bytes, ""),
        (
            "kept by the filter",
            metric_value(upstream_audits, "filter", "records.kept"),
            metric_value(upstream_audits, "filter", "bytes.kept"),
            "",
        ),
        (
            "unique",
            metric_value(upstream_audits, "dedupe", "records.unique"),
            metric_value(upstream_audits, "dedupe", "bytes.unique"),
            "",
        ),
        ("trained on", tally.documents["train"], tally.bytes["train"], tally.tokens["train"]),
    ]
    rows = [
        (name, count, num_bytes, round(num_bytes / max(1, scraped_bytes), 6), tokens) for name, count, num_bytes, tokens in steps
    ]
    columns = ("step", "records", "bytes", "share of the scraped bytes", "tokens")
    return AuditTable("yield", "what is left at each step, from the fetched bytes to the tokens of the trainer", columns, rows)


def record_accounting(
    audit: MetricRecorder, upstream_audits: Mapping[str, Audit], tally: TokenizeTally, num_stored_tokens: int
) -> None:
    """Whether everything that went into a step came out of it or was dropped for a reason; `held`: tokens in the arrays."""
    unique_bytes, kept_bytes = (
        metric_value(upstream_audits, "dedupe", "bytes.unique"),
        metric_value(upstream_audits, "filter", "bytes.kept"),
    )
    accounted_urls = metric_value(upstream_audits, "scrape", "records") + sum(
        metric_value(upstream_audits, "scrape", name) for name in ("refused", "failed")
    )
    dropped_bytes = sum(metric_value(upstream_audits, "filter", name) for name in ("bytes.dropped", "bytes.masked"))
    steps = (
        ("scrape", "addresses", metric_value(upstream_audits, "scrape", "addresses"), accounted_urls, "records, refused, failed"),
        ("filter", "bytes", metric_value(upstream_audits, "scrape", "bytes"), kept_bytes + dropped_bytes, "kept, dropped, masked"),
        ("dedupe", "bytes", kept_bytes, unique_bytes + metric_value(upstream_audits, "dedupe", "bytes.removed"), "unique, removed"),
        ("tokenize", "bytes", unique_bytes, sum(tally.bytes.values()), "trained on, held out"),
        ("tokenize", "tokens", sum(tally.tokens.values()), num_stored_tokens, "tokens in the arrays on disk"),
    )
    rows = [
        (step, quantity, num_in, num_out, output_parts, num_in - num_out) for step, quantity, num_in, num_out, output_parts in steps
    ]
    audit.add_count("chain", sum(abs(row[-1]) for row in rows), "differences", "sum of the column `lost` of the table `balance`: 0")
    columns = ("step", "what", "in", "out", "out as", "lost")
    audit.tables.append(
        AuditTable("balance", "what went into each step and what came out of it, from addresses to tokens", columns, rows)
    )
