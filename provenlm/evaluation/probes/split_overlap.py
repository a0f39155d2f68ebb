"""Both splits in, figures out on what they share: nothing that was trained on may be held out."""

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.evaluation.ngram_overlap import OVERLAP_TOKENS, shared_windows
from provenlm.evaluation.probe import EvalContext

MAX_TABLE_ROWS = 10


def split_overlap_probe(context: EvalContext, metrics: MetricRecorder) -> None:
    """Ids and duplicate clusters on both sides, and, not trusting those, held-out windows that stand verbatim in training."""
    train, val = context.tokens.train, context.tokens.val
    for split in (train, val):
        if len(split.clusters) != len(split.record_ids):
            raise ValueError("the split does not say which cluster each of its documents belongs to")
    shared_ids = set(train.record_ids) & set(val.record_ids)
    shared_clusters = set(train.clusters) & set(val.clusters)
    metrics.add_count("shared_ids", len(shared_ids), "records", "records on both sides of the split")
    metrics.add_count("shared_clusters", len(shared_clusters), "clusters", "clusters of near duplicates on both sides of the split")
    if not val.record_ids:
        return
    is_shared = shared_windows(val.ids, train.ids, OVERLAP_TOKENS)
    shared_fraction = float(is_shared.mean()) if len(is_shared) else 0.0
    metrics.add_count(
        "shared_spans",
        shared_fraction,
        "share",
        f"held-out windows of {OVERLAP_TOKENS} tokens that stand verbatim in the training split",
    )
    rows = []
    for n, record_id in enumerate(val.record_ids):
        document_windows = is_shared[
            val.doc_offsets[n] : max(int(val.doc_offsets[n]), int(val.doc_offsets[n + 1]) - OVERLAP_TOKENS + 1)
        ]
        rows.append((record_id, len(document_windows), round(float(document_windows.mean()), 4) if len(document_windows) else 0.0))
    rows.sort(key=lambda row: (-row[2], row[0]))
    description = "largest share, over held-out documents, of its windows that stand verbatim in the training split"
    metrics.add_count("shared_spans.worst", rows[0][2], "share", description)
    description = f"held-out documents with the largest share of windows of {OVERLAP_TOKENS} tokens that stand in training"
    metrics.tables.append(AuditTable("repeated", description, ("record", "windows", "share repeated"), rows[:MAX_TABLE_ROWS]))
    metrics.add_count(
        "shared_spans.documents", sum(row[2] > 0.5 for row in rows), "documents", "held-out documents of which more than half does"
    )
