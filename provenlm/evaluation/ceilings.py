"""Compute the best accuracy and loss that any causal predictor can reach."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CausalCeiling:
    """Hold the best accuracy and the lowest loss of any causal predictor.

    They belong to the best choice and the best distribution at each prefix; the loss is a mean in nats.
    """

    max_accuracy: float
    min_loss: float
    num_targets: int


def prefix_upper_bound(sequences: Iterable[tuple[Sequence[int], int]]) -> CausalCeiling:
    """Enumerate every prefix of `sequences` and return the ceiling.

    Each item holds token ids and the number (>= 1) of leading tokens that are no targets. Where equal prefixes continue
    differently, no causal predictor is always correct: the best choice is the most frequent continuation, the best distribution
    its frequencies (whose loss is the entropy). ValueError if there are no targets.
    """
    children: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    target_counts: list[int] = []  # how often the last token of this prefix was a target
    for ids, num_context in sequences:
        node = -1
        for position, token in enumerate(ids):
            step = (node, int(token))
            if step not in children:
                children[step] = len(parents)
                parents.append(node)
                target_counts.append(0)
            node = children[step]
            target_counts[node] += position >= num_context
    counts, parent_ids = np.array(target_counts, dtype=np.int64), np.array(parents, dtype=np.int64)
    parent_ids, counts = parent_ids[counts > 0], counts[counts > 0]
    if not len(counts):
        raise ValueError("no targets to enumerate")
    _, parent_groups = np.unique(parent_ids, return_inverse=True)
    totals = np.bincount(parent_groups, weights=counts)
    max_counts = np.zeros(len(totals))
    np.maximum.at(max_counts, parent_groups, counts)
    num_targets = int(counts.sum())
    min_loss = -float((counts * np.log(counts / totals[parent_groups])).sum()) / num_targets
    return CausalCeiling(float(max_counts.sum()) / num_targets, min_loss + 0.0, num_targets)
