"""What a filter saw, record by record, in; its figures, histograms and a few of the dropped records out."""

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import Recorder, Series, Table
from provenlm.core.records import Record
from provenlm.filtering.scoring import Judged

GOOD = 0.6  # the share of records at or above this score is a figure, before and after
EXAMPLES = 3  # dropped records shown for each reason
SHOWN = 120  # characters of each
SHOWN_LOWEST = 5  # kept records shown


@dataclass
class Tally:
    """What was seen, before (`in`) and after (`kept`), in the order of the records."""

    scores: "array[float]" = field(default_factory=lambda: array("d"))
    bytes: "array[int]" = field(default_factory=lambda: array("q"))  # of each body as it came in
    kept: "array[int]" = field(default_factory=lambda: array("b"))  # 1 or 0
    masked: int = 0  # bytes by which kept bodies shrank
    found: Counter[str] = field(default_factory=Counter)  # of what was looked for, how often
    holding: Counter[str] = field(default_factory=Counter)  # and in how many records
    profiles: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # records in, kept
    parts: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0.0, 0.0, 0.0])
    )  # sums in and kept, records below 1
    lowest: list[Judged] = field(default_factory=list)  # of those kept, without their bodies
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Judged]] = field(default_factory=lambda: defaultdict(list))

    def add(self, judged: Judged) -> None:
        self.scores.append(judged.score)
        self.bytes.append(judged.size)
        self.kept.append(judged.reason is None)
        self.found.update(judged.found)
        self.holding.update(judged.found.keys())
        profile = self.profiles[str(judged.record.facts.get("profile", "reference"))]
        profile[0] += 1
        for name, part in judged.parts.items():
            sums = self.parts[name]
            sums[0] += part
            sums[1] += part if judged.reason is None else 0
            sums[2] += part < 1
        if judged.reason is None:
            self.masked += judged.size - len(judged.record.body)
            profile[1] += 1
            if len(self.lowest) < SHOWN_LOWEST or judged.score < self.lowest[-1].score:
                light = replace(judged, record=replace(judged.record, body=judged.record.body[: 8 * SHOWN]))
                self.lowest = sorted([*self.lowest, light], key=lambda one: one.score)[:SHOWN_LOWEST]
        if judged.reason is not None:
            self.reasons[judged.reason] += 1
            if len(self.examples[judged.reason]) < EXAMPLES:
                self.examples[judged.reason].append(judged)


def told(reasons: Counter[str]) -> str:
    """The reasons and their counts in one line."""
    return "dropped " + (", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none: there were no records")


def record(audit: Recorder, tally: Tally) -> None:
    scores, sizes, kept = np.array(tally.scores), np.array(tally.bytes), np.array(tally.kept, bool)
    audit.counted("records.in", len(kept), "records", "scraped records that were judged")
    audit.counted("records.kept", int(kept.sum()), "records", "records that no rule dropped and whose score sufficed")
    for reason, count in sorted(tally.reasons.items()):
        audit.counted(f"dropped.{reason}", count, "records", f"records dropped for the reason {reason}")
    balance = len(kept) - int(kept.sum()) - sum(tally.reasons.values())
    audit.counted("balance", balance, "records", "records in, less kept, less the sum of dropped by reason: 0 if none was lost")
    audit.counted("bytes.in", int(sizes.sum()), "bytes", "bodies of the scraped records")
    audit.counted("bytes.kept", int(sizes[kept].sum()) - tally.masked, "bytes", "bodies of the kept records, as they were written")
    audit.counted(
        "bytes.masked",
        tally.masked,
        "bytes",
        "bytes by which signs in place of private data, and lines taken out, make kept bodies shorter",
    )
    audit.counted("bytes.dropped", int(sizes[~kept].sum()), "bytes", "bodies of the dropped records")
    for when, chosen in (("before", scores), ("after", scores[kept])):
        with audit.under(f"score.{when}") as side:
            meaning = f"of the scores of all records {when} the selection"
            side.measured("mean", round(float(chosen.mean()), 6), "score", f"mean {meaning}")
            side.measured("median", round(float(np.median(chosen)), 6), "score", f"median {meaning}")
            side.measured("share_good", round(float((chosen >= GOOD).mean()), 6), "share", f"share of {GOOD} or more {meaning}")
    for name, (before, after) in sorted(tally.profiles.items()):
        audit.counted(f"profile.{name}", before, "records", f"records judged as {name}")
        audit.counted(f"profile.{name}.kept", after, "records", f"kept records that were judged as {name}")
    for name, count in sorted(tally.found.items()):
        if name.startswith("rules."):
            audit.counted(
                f"{name}.outside", count, "records", "records that this published set of rules would drop, dropped or not"
            )
        elif name.startswith("lines."):
            audit.counted(
                name, count, "citations" if name == "lines.citations" else "lines", "taken out of records for this reason"
            )
        else:
            audit.counted(name, count, "finds", "places in records that match this pattern of private data")
            audit.counted(f"{name}.records", tally.holding[name], "records", "records that hold one")
    audit.series += [histogram_of_scores(scores, kept), histogram_of_sizes(sizes, kept)]
    audit.tables += [examples(tally), parts_of(tally), lowest(tally)]


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


def parts_of(tally: Tally) -> Table:
    """What the scores are made of, the part that costs most first."""
    total, kept = max(1, len(tally.kept)), max(1, sum(tally.kept))
    order = sorted(tally.parts, key=lambda name: (tally.parts[name][0], name))
    rows = [(name, round(a / total, 4), round(b / kept, 4), int(below)) for name in order for a, b, below in [tally.parts[name]]]
    return Table("parts", "the parts of the scores", ("part", "mean before", "mean after", "records below 1"), rows)


def lowest(tally: Tally) -> Table:
    """The kept records that a stricter filter would drop first, and why."""
    rows = [(one.record.source, round(one.score, 4), worst(one), beginning(one.record)) for one in tally.lowest]
    return Table(
        "lowest", f"the {SHOWN_LOWEST} kept records of the lowest score", ("source", "score", "lowest parts", "text"), rows
    )


def worst(judged: Judged) -> str:
    below = sorted((part, name) for name, part in judged.parts.items() if part < 1)[:3]
    return ", ".join(f"{name} {part:.2f}" for part, name in below)


def beginning(item: Record) -> str:
    return " ".join(item.body[: 8 * SHOWN].decode("utf-8", "replace").split())[:SHOWN]
