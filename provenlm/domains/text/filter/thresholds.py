"""Score text statistics by thresholds and drop records outside of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from provenlm.domains.text.filter.text_stats import TextStats
from provenlm.filtering.scoring import trapezoid


@dataclass(frozen=True)
class StatThreshold:
    """Configure one statistic: where it drops records, where its sub-score is 1.

    drop_below, drop_above: a record is dropped if the value is at or beyond them.
    good_from, good_to: between them the sub-score is 1; towards drop_below and drop_above it falls linearly to 0.
    The two keys of a side belong together; a side without them has no limit.
    """

    replaces_default: ClassVar[bool] = True  # {drop_below: 5, good_from: 9} has no upper limit, whatever the default has
    drop_below: float | None = None
    good_from: float | None = None
    good_to: float | None = None
    drop_above: float | None = None

    def __post_init__(self) -> None:
        for outer, inner in (("drop_below", "good_from"), ("drop_above", "good_to")):
            if (getattr(self, outer) is None) != (getattr(self, inner) is None):
                raise ValueError(f"{outer} and {inner} must be given together, got one of them")
        edges = [(name, getattr(self, name)) for name in ("drop_below", "good_from", "good_to", "drop_above")]
        for (low_name, low), (high_name, high) in pairwise([edge for edge in edges if edge[1] is not None]):
            if low >= high:
                raise ValueError(f"{high_name} must be > {low_name}, got {high} and {low}")

    def sub_scores(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the sub-scores of `values`, from 0 to 1."""
        return trapezoid(
            values,
            -inf if self.drop_below is None else self.drop_below,
            -inf if self.good_from is None else self.good_from,
            inf if self.good_to is None else self.good_to,
            inf if self.drop_above is None else self.drop_above,
        )


@dataclass(frozen=True)
class FilterThresholds:
    """Configure the thresholds on text statistics, in the order of checking.

    `provenlm.domains.text.filter.text_stats` defines the statistics. The defaults suit reference documentation. A threshold in
    params.yaml replaces the whole default of that statistic; {} switches it off.
    """

    doc_words: StatThreshold = StatThreshold(20, 60, 200_000, 1_000_000)
    avg_word_length: StatThreshold = StatThreshold(2, 3, 12, 24)
    alpha_words_ratio: StatThreshold = StatThreshold(drop_below=0.2, good_from=0.5)
    stop_words: StatThreshold = StatThreshold(drop_below=-1, good_from=2)
    symbol_word_ratio: StatThreshold = StatThreshold(good_to=0.1, drop_above=0.5)
    digit_ratio: StatThreshold = StatThreshold(good_to=0.15, drop_above=0.5)
    control_char_ratio: StatThreshold = StatThreshold(good_to=0.0005, drop_above=0.01)
    long_word_char_ratio: StatThreshold = StatThreshold(good_to=0.3, drop_above=0.6)
    short_line_ratio: StatThreshold = StatThreshold(good_to=0.85, drop_above=1.0)
    dup_line_char_frac: StatThreshold = StatThreshold(good_to=0.5, drop_above=0.9)
    top_2_gram_frac: StatThreshold = StatThreshold(good_to=0.1, drop_above=0.4)
    dup_10_gram_frac: StatThreshold = StatThreshold(good_to=0.5, drop_above=0.9)


@dataclass(frozen=True)
class CodeThresholds(FilterThresholds):
    """Configure the thresholds on text statistics of code."""

    doc_words: StatThreshold = StatThreshold(10, 40, 200_000, 1_000_000)
    avg_word_length: StatThreshold = StatThreshold(2, 3, 16, 40)
    alpha_words_ratio: StatThreshold = StatThreshold(drop_below=0.1, good_from=0.3)
    stop_words: StatThreshold = StatThreshold(drop_below=-1, good_from=0)
    symbol_word_ratio: StatThreshold = StatThreshold(good_to=0.3, drop_above=0.9)
    digit_ratio: StatThreshold = StatThreshold(good_to=0.25, drop_above=0.6)
    long_word_char_ratio: StatThreshold = StatThreshold(good_to=0.4, drop_above=0.7)
    short_line_ratio: StatThreshold = StatThreshold(good_to=0.9, drop_above=1.001)
    dup_line_char_frac: StatThreshold = StatThreshold(good_to=0.6, drop_above=0.95)
    top_2_gram_frac: StatThreshold = StatThreshold(good_to=0.2, drop_above=0.6)
    dup_10_gram_frac: StatThreshold = StatThreshold(good_to=0.6, drop_above=0.95)


@dataclass(frozen=True)
class ProseThresholds(FilterThresholds):
    """Configure the thresholds on text statistics of prose."""

    alpha_words_ratio: StatThreshold = StatThreshold(drop_below=0.4, good_from=0.7)
    stop_words: StatThreshold = StatThreshold(drop_below=0, good_from=2)
    symbol_word_ratio: StatThreshold = StatThreshold(good_to=0.05, drop_above=0.2)
    digit_ratio: StatThreshold = StatThreshold(good_to=0.12, drop_above=0.4)
    long_word_char_ratio: StatThreshold = StatThreshold(good_to=0.1, drop_above=0.4)
    short_line_ratio: StatThreshold = StatThreshold(good_to=0.67, drop_above=1.0)
    dup_line_char_frac: StatThreshold = StatThreshold(good_to=0.2, drop_above=0.6)
    top_2_gram_frac: StatThreshold = StatThreshold(good_to=0.1, drop_above=0.3)
    dup_10_gram_frac: StatThreshold = StatThreshold(good_to=0.3, drop_above=0.7)


def apply_thresholds(
    thresholds: FilterThresholds, stats: TextStats, indices: Sequence[int]
) -> tuple[list[Mapping[str, float]], list[str | None]]:
    """Compute the sub-scores and the first drop reason of the texts at `indices`.

    A drop reason is `low_` or `high_` and the name of the statistic.
    """
    columns, first_reason = [], np.zeros(len(indices), np.int64)
    reasons: list[str | None] = [None]
    names = [item.name for item in fields(FilterThresholds)]
    for name in names:
        values, threshold = getattr(stats, name)[indices], getattr(thresholds, name)
        columns.append(threshold.sub_scores(values).tolist())
        for side, is_outside in (
            ("low", values <= (-inf if threshold.drop_below is None else threshold.drop_below)),
            ("high", values >= (inf if threshold.drop_above is None else threshold.drop_above)),
        ):
            first_reason[is_outside & (first_reason == 0)] = len(reasons)
            reasons.append(f"{side}_{name}")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], [
        reasons[reason] for reason in first_reason.tolist()
    ]
