"""Measure the overlap of the training and validation splits."""

from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.evaluation.ngram_overlap import OVERLAP_TOKENS, shared_windows
from provenlm.evaluation.probe import EvalContext, Probe

MAX_TABLE_ROWS = 10


def split_overlap_probe() -> Probe:
    """Return the probe that measures the overlap of the splits."""
    checks = {
        "shared_ids": Check("== 0", "a record is in both splits: run tokenize again"),
        "shared_clusters": Check("== 0", "near duplicates are in both splits: split by cluster"),
        "span_fraction": Check("<= 0.05", "the validation split repeats training text: deduplicate paragraphs across documents"),
        "max_per_document": Check("<= 0.5", "a validation document repeats training text: deduplicate paragraphs across documents"),
    }
    return Probe(record_split_overlap, frozenset({"validation_split"}), checks)


def record_split_overlap(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record shared ids, shared clusters and verbatim overlaps of the splits."""
    train, val = context.tokens.train, context.tokens.val
    for split in (train, val):
        if len(split.clusters) != len(split.record_ids):
            raise ValueError(
                f"each document must have a cluster, got {len(split.clusters)} clusters for {len(split.record_ids)} documents"
            )
    shared_ids = set(train.record_ids) & set(val.record_ids)
    shared_clusters = set(train.clusters) & set(val.clusters)
    metrics.add_count(
        "shared_ids", len(shared_ids), "records", "Record ids that occur in both the training and the validation split"
    )
    metrics.add_count(
        "shared_clusters", len(shared_clusters), "clusters", "Clusters of near duplicates with documents in both splits"
    )
    is_shared = shared_windows(val.ids, train.ids, OVERLAP_TOKENS)
    shared_fraction = float(is_shared.mean()) if len(is_shared) else 0.0
    metrics.add_count(
        "span_fraction",
        shared_fraction,
        "fraction",
        f"Fraction of validation windows of {OVERLAP_TOKENS} tokens that occur verbatim in the training split",
    )
    rows = []
    for n, record_id in enumerate(val.record_ids):
        document_windows = is_shared[
            val.doc_offsets[n] : max(int(val.doc_offsets[n]), int(val.doc_offsets[n + 1]) - OVERLAP_TOKENS + 1)
        ]
        rows.append((record_id, len(document_windows), round(float(document_windows.mean()), 4) if len(document_windows) else 0.0))
    rows.sort(key=lambda row: (-row[2], row[0]))
    description = f"Largest fraction, over validation documents, of {OVERLAP_TOKENS}-token windows that occur verbatim in training"
    metrics.add_count("max_per_document", rows[0][2], "fraction", description)
    description = f"Validation documents with the largest fraction of {OVERLAP_TOKENS}-token windows that occur in training"
    metrics.tables.append(
        AuditTable("documents", description, ("record", "windows", "fraction in training"), rows[:MAX_TABLE_ROWS])
    )
    metrics.add_count(
        "documents_over_half",
        sum(row[2] > 0.5 for row in rows),
        "documents",
        f"Validation documents of which more than half of the {OVERLAP_TOKENS}-token windows occur in training",
    )
