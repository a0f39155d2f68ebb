"""Token sequences in, the best that any causal predictor could do on them out: ceilings to print beside what was reached."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Attainable:
    """`accuracy`: share of targets right for the best choice at each prefix. `nats`: mean loss of the best distribution there."""

    accuracy: float
    nats: float
    targets: int


def by_prefix(sequences: Iterable[tuple[Sequence[int], int]]) -> Attainable:
    """Enumerate every prefix. Each item is a sequence and how many of its first tokens are given and not asked for (at least one).

    Where equal prefixes go on differently no causal predictor is always right: at best it names the most frequent continuation,
    or gives each its frequency (whose loss is the entropy). ValueError if nothing is asked for.
    """
    child: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    asked: list[int] = []  # how often the last token of this prefix was a target
    for ids, given in sequences:
        node = -1
        for place, token in enumerate(ids):
            step = (node, int(token))
            if step not in child:
                child[step] = len(parents)
                parents.append(node)
                asked.append(0)
            node = child[step]
            asked[node] += place >= given
    counts, above = np.array(asked, dtype=np.int64), np.array(parents, dtype=np.int64)
    above, counts = above[counts > 0], counts[counts > 0]
    if not len(counts):
        raise ValueError("no targets to enumerate")
    _, family = np.unique(above, return_inverse=True)
    totals = np.bincount(family, weights=counts)
    most = np.zeros(len(totals))
    np.maximum.at(most, family, counts)
    targets = int(counts.sum())
    nats = -float((counts * np.log(counts / totals[family])).sum()) / targets
    return Attainable(float(most.sum()) / targets, nats + 0.0, targets)
