"""Training tokens in, unigram and bigram predictors out: what a net must beat to have learned more than counts.

Both are interpolated with absolute discounting, the bigram in the form of Kneser and Ney (1995): its lower order asks after how
many different tokens a token was seen, not how often (Chen and Goodman 1999, section 2.7). V is the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.data.token_dataset import Split

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DISCOUNTS = (0.1, 0.95)  # the estimate leaves [0, 1] on a corpus with hardly any rare tokens: no token may get nothing


@dataclass(frozen=True)
class Unigram:
    """`probabilities_V` sum to one and are never nought."""

    probabilities_V: Floats

    def nats(self, following: NDArray[Any]) -> Floats:
        nats: Floats = -np.log(self.probabilities_V[following])
        return nats


@dataclass(frozen=True)
class Bigram:
    """`keys` are the pairs seen, `previous * V + following`, sorted, with `kept` their discounted share of their context.

    `backing_V` is the weight that each context gives to `lower`: one for a context never seen.
    """

    keys: Ints
    kept: Floats
    backing_V: Floats
    lower: Unigram

    def probabilities(self, previous: NDArray[Any], following: NDArray[Any]) -> Floats:
        """p(following | previous), elementwise."""
        size = len(self.backing_V)
        asked = previous.astype(np.int64) * size + following.astype(np.int64)
        place = np.minimum(np.searchsorted(self.keys, asked), len(self.keys) - 1)
        own = np.where(self.keys[place] == asked, self.kept[place], 0.0)
        found: Floats = own + self.backing_V[previous] * self.lower.probabilities_V[following]
        return found

    def nats(self, previous: NDArray[Any], following: NDArray[Any]) -> Floats:
        nats: Floats = -np.log(self.probabilities(previous, following))
        return nats

    def best(self) -> Ints:
        """The most probable token after each token, (V,)."""
        size = len(self.backing_V)
        best = np.full(size, int(self.lower.probabilities_V.argmax()), dtype=np.int64)
        previous, following = self.keys // size, self.keys % size
        order = np.lexsort((self.probabilities(previous, following), previous))
        last = np.flatnonzero(np.diff(previous[order], append=-1))
        contexts, choices = previous[order][last], following[order][last]
        better = self.probabilities(contexts, choices) >= self.probabilities(contexts, best[contexts])
        best[contexts[better]] = choices[better]
        return best


def fit(split: Split, vocabulary: int) -> tuple[Unigram, Bigram]:
    """Count the targets of `split`: every token but the first of each document, after the one before it.

    ValueError if there is not one pair.
    """
    ids = np.asarray(split.ids).astype(np.int64)
    first = np.zeros(len(ids) + 1, dtype=np.bool_)
    first[split.starts] = True
    pair = ~first[1:-1]
    previous, following = ids[:-1][pair], ids[1:][pair]
    if not len(following):
        raise ValueError("baselines need at least one document of two tokens to count")
    keys, counts = np.unique(previous * vocabulary + following, return_counts=True)
    lower = Unigram(_interpolated(np.bincount(keys % vocabulary, minlength=vocabulary)))
    totals_V = np.bincount(keys // vocabulary, weights=counts, minlength=vocabulary)
    distinct_V = np.bincount(keys // vocabulary, minlength=vocabulary)
    discount = _discount(counts)
    kept = (counts - discount) / totals_V[keys // vocabulary]
    backing_V = np.where(totals_V > 0, discount * distinct_V / np.maximum(totals_V, 1), 1.0)
    return Unigram(_interpolated(np.bincount(following, minlength=vocabulary))), Bigram(keys, kept, backing_V, lower)


def _interpolated(counts_V: NDArray[Any]) -> Floats:
    """Absolute discounting of `counts_V`, what is taken away spread evenly over the vocabulary."""
    discount = _discount(counts_V[counts_V > 0])
    total, seen = counts_V.sum(), np.count_nonzero(counts_V)
    kept_V: Floats = np.maximum(counts_V - discount, 0) / total
    spread_V: Floats = kept_V + discount * seen / total / len(counts_V)
    return spread_V


def _discount(counts: NDArray[Any]) -> float:
    """n1 / (n1 + 2 n2), where n1 and n2 are how many items were seen once and twice (Ney, Essen and Kneser 1994)."""
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    estimate = once / (once + 2 * twice) if once + twice else DISCOUNTS[0]
    return float(np.clip(estimate, *DISCOUNTS))
