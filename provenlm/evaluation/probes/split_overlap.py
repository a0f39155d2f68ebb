"""Both splits in, figures out on what they share: nothing that was trained on may be held out."""

from provenlm.core.audit import Recorder, Table
from provenlm.evaluation.ngram_overlap import VERBATIM, repeated_windows
from provenlm.evaluation.probe import Subject

SHOWN = 10


def separation(subject: Subject, figures: Recorder) -> None:
    """Ids and duplicate clusters on both sides, and, not trusting those, held-out windows that stand verbatim in training."""
    train, val = subject.tokens.train, subject.tokens.val
    for split in (train, val):
        if len(split.clusters) != len(split.record_ids):
            raise ValueError("the split does not say which cluster each of its documents belongs to")
    ids = set(train.record_ids) & set(val.record_ids)
    clusters = set(train.clusters) & set(val.clusters)
    figures.counted("shared_ids", len(ids), "records", "records on both sides of the split")
    figures.counted("shared_clusters", len(clusters), "clusters", "clusters of near duplicates on both sides of the split")
    if not val.record_ids:
        return
    seen = repeated_windows(val.ids, train.ids, VERBATIM)
    share = float(seen.mean()) if len(seen) else 0.0
    figures.counted(
        "shared_spans", share, "share", f"held-out windows of {VERBATIM} tokens that stand verbatim in the training split"
    )
    rows = []
    for n, record in enumerate(val.record_ids):
        inside = seen[val.starts[n] : max(int(val.starts[n]), int(val.starts[n + 1]) - VERBATIM + 1)]
        rows.append((record, len(inside), round(float(inside.mean()), 4) if len(inside) else 0.0))
    rows.sort(key=lambda row: (-row[2], row[0]))
    meaning = "largest share, over held-out documents, of its windows that stand verbatim in the training split"
    figures.counted("shared_spans.worst", rows[0][2], "share", meaning)
    meaning = f"held-out documents with the largest share of windows of {VERBATIM} tokens that stand in training"
    figures.tables.append(Table("repeated", meaning, ("record", "windows", "share repeated"), rows[:SHOWN]))
    figures.counted(
        "shared_spans.documents", sum(row[2] > 0.5 for row in rows), "documents", "held-out documents of which more than half does"
    )
