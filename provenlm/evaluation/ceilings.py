"""Token sequences in, the best that any causal predictor could do on them out: ceilings to print beside what was reached."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CausalCeiling:
    """`accuracy`: share of targets right for the best choice at each prefix. `nats`: mean loss of the best distribution there."""

    max_accuracy: float
    min_loss: float
    num_targets: int


def prefix_upper_bound(sequences: Iterable[tuple[Sequence[int], int]]) -> CausalCeiling:
    """Enumerate every prefix. Each item is a sequence and how many of its first tokens are given and not asked for (at least one).

    Where equal prefixes go on differently no causal predictor is always right: at best it names the most frequent continuation,
    or gives each its frequency (whose loss is the entropy). ValueError if nothing is asked for.
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
