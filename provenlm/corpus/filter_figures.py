"""What a filter saw, record by record, in; its figures, histograms and a few of the dropped records out."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import Recorder, Series, Table
from provenlm.core.record import Record
from provenlm.corpus.filtering import Judged

GOOD = 0.6  # the share of records at or above this score is a figure, before and after
EXAMPLES = 3  # dropped records shown for each reason
SHOWN = 120  # characters of each


@dataclass
class Tally:
    """What was seen, before (`in`) and after (`kept`), in the order of the records."""

    scores: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Judged]] = field(default_factory=lambda: defaultdict(list))

    def add(self, judged: Judged) -> None:
        self.scores.append(judged.score)
        self.bytes.append(len(judged.record.body))
        self.kept.append(judged.reason is None)
        if judged.reason is not None:
            self.reasons[judged.reason] += 1
            if len(self.examples[judged.reason]) < EXAMPLES:
                self.examples[judged.reason].append(judged)


def told(reasons: Counter[str]) -> str:
    """The reasons and their counts in one line."""
    return "dropped " + (", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none: there were no records")


def record(audit: Recorder, tally: Tally) -> None:
    scores, sizes, kept = np.array(tally.scores), np.array(tally.bytes), np.array(tally.kept)
    audit.counted("records.in", len(kept), "records", "scraped records that were judged")
    audit.counted("records.kept", int(kept.sum()), "records", "records that no rule dropped and whose score sufficed")
    for reason, count in sorted(tally.reasons.items()):
        audit.counted(f"dropped.{reason}", count, "records", f"records dropped for the reason {reason}")
    balance = len(kept) - int(kept.sum()) - sum(tally.reasons.values())
    audit.counted("balance", balance, "records", "records in, less kept, less the sum of dropped by reason: 0 if none was lost")
    audit.counted("bytes.in", int(sizes.sum()), "bytes", "bodies of the scraped records")
    audit.counted("bytes.kept", int(sizes[kept].sum()), "bytes", "bodies of the kept records")
    audit.counted("bytes.dropped", int(sizes[~kept].sum()), "bytes", "bodies of the dropped records")
    for when, chosen in (("before", scores), ("after", scores[kept])):
        with audit.under(f"score.{when}") as side:
            meaning = f"of the scores of all records {when} the selection"
            side.measured("mean", round(float(chosen.mean()), 6), "score", f"mean {meaning}")
            side.measured("median", round(float(np.median(chosen)), 6), "score", f"median {meaning}")
            side.measured("share_good", round(float((chosen >= GOOD).mean()), 6), "share", f"share of {GOOD} or more {meaning}")
    audit.series += [histogram_of_scores(scores, kept), histogram_of_sizes(sizes, kept)]
    audit.tables.append(examples(tally))


def histogram_of_scores(scores: NDArray[np.float64], kept: NDArray[np.bool_]) -> Series:
    edges = np.linspace(0, 1, 21)
    lines = {name: np.histogram(of, edges)[0].tolist() for name, of in (("before", scores), ("after", scores[kept]))}
    return Series("scores", "bars", "records by score, before and after", "score", "records", edges.round(3).tolist(), lines)


def histogram_of_sizes(sizes: NDArray[np.int64], kept: NDArray[np.bool_]) -> Series:
    edges = np.array([0.0, *2.0 ** np.arange(np.ceil(np.log2(sizes.max() + 2)) + 1)])
    lines = {name: np.histogram(of, edges)[0].tolist() for name, of in (("before", sizes), ("after", sizes[kept]))}
    return Series("lengths", "bars", "records by length, before and after", "bytes of the body", "records", edges.tolist(), lines)


def examples(tally: Tally) -> Table:
    rows = [
        (item.record.source, reason, round(item.score, 4), beginning(item.record))
        for reason, items in sorted(tally.examples.items())
        for item in items
    ]
    meaning = f"the first {EXAMPLES} records dropped for each reason, with the first {SHOWN} characters"
    return Table("dropped", meaning, ("source", "reason", "score", "text"), rows)


def beginning(item: Record) -> str:
    return " ".join(item.body[: 8 * SHOWN].decode("utf-8", "replace").split())[:SHOWN]
