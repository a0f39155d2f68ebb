"""Training tokens in, unigram and bigram predictors out: what a net must beat to have learned more than counts.

Both are interpolated with absolute discounting, the bigram in the form of Kneser and Ney (1995): its lower order asks after how
many different tokens a token was seen, not how often (Chen and Goodman 1999, section 2.7). V is the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.data.token_dataset import DatasetSplit

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
DISCOUNTS = (0.1, 0.95)  # the estimate leaves [0, 1] on a corpus with hardly any rare tokens: no token may get nothing


@dataclass(frozen=True)
class UnigramModel:
    """`probabilities_V` sum to one and are never nought."""

    probabilities_V: FloatArray

    def nats(self, following: NDArray[Any]) -> FloatArray:
        nats: FloatArray = -np.log(self.probabilities_V[following])
        return nats


@dataclass(frozen=True)
class BigramModel:
    """`keys` are the pairs seen, `previous * V + following`, sorted, with `kept` their discounted share of their context.

    `backing_V` is the weight that each context gives to `lower`: one for a context never seen.
    """

    pair_ids: IntArray
    discounted_probs: FloatArray
    backoff_weights_V: FloatArray
    lower_order: UnigramModel

    def probabilities(self, previous: NDArray[Any], following: NDArray[Any]) -> FloatArray:
        """p(following | previous), elementwise."""
        vocab_size = len(self.backoff_weights_V)
        query = previous.astype(np.int64) * vocab_size + following.astype(np.int64)
        index = np.minimum(np.searchsorted(self.pair_ids, query), len(self.pair_ids) - 1)
        higher_order = np.where(self.pair_ids[index] == query, self.discounted_probs[index], 0.0)
        mixture: FloatArray = higher_order + self.backoff_weights_V[previous] * self.lower_order.probabilities_V[following]
        return mixture

    def nats(self, previous: NDArray[Any], following: NDArray[Any]) -> FloatArray:
        nats: FloatArray = -np.log(self.probabilities(previous, following))
        return nats

    def top_continuations(self) -> IntArray:
        """The most probable token after each token, (V,)."""
        vocab_size = len(self.backoff_weights_V)
        best = np.full(vocab_size, int(self.lower_order.probabilities_V.argmax()), dtype=np.int64)
        previous, following = self.pair_ids // vocab_size, self.pair_ids % vocab_size
        order = np.lexsort((self.probabilities(previous, following), previous))
        last = np.flatnonzero(np.diff(previous[order], append=-1))
        contexts, choices = previous[order][last], following[order][last]
        better = self.probabilities(contexts, choices) >= self.probabilities(contexts, best[contexts])
        best[contexts[better]] = choices[better]
        return best


def fit_ngrams(split: DatasetSplit, vocab_size: int) -> tuple[UnigramModel, BigramModel]:
    """Count the targets of `split`: every token but the first of each document, after the one before it.

    ValueError if there is not one pair.
    """
    ids = np.asarray(split.ids).astype(np.int64)
    is_first = np.zeros(len(ids) + 1, dtype=np.bool_)
    is_first[split.doc_offsets] = True
    is_pair = ~is_first[1:-1]
    previous, following = ids[:-1][is_pair], ids[1:][is_pair]
    if not len(following):
        raise ValueError("baselines need at least one document of two tokens to count")
    pair_ids, counts = np.unique(previous * vocab_size + following, return_counts=True)
    lower_order = UnigramModel(_smooth(np.bincount(pair_ids % vocab_size, minlength=vocab_size)))
    totals_V = np.bincount(pair_ids // vocab_size, weights=counts, minlength=vocab_size)
    distinct_V = np.bincount(pair_ids // vocab_size, minlength=vocab_size)
    discount = _discount(counts)
    discounted_probs = (counts - discount) / totals_V[pair_ids // vocab_size]
    backoff_weights_V = np.where(totals_V > 0, discount * distinct_V / np.maximum(totals_V, 1), 1.0)
    return UnigramModel(_smooth(np.bincount(following, minlength=vocab_size))), BigramModel(
        pair_ids, discounted_probs, backoff_weights_V, lower_order
    )


def _smooth(counts_V: NDArray[Any]) -> FloatArray:
    """Absolute discounting of `counts_V`, what is taken away spread evenly over the vocabulary."""
    discount = _discount(counts_V[counts_V > 0])
    total, num_seen = counts_V.sum(), np.count_nonzero(counts_V)
    discounted_V: FloatArray = np.maximum(counts_V - discount, 0) / total
    smoothed_V: FloatArray = discounted_V + discount * num_seen / total / len(counts_V)
    return smoothed_V


def _discount(counts: NDArray[Any]) -> float:
    """n1 / (n1 + 2 n2), where n1 and n2 are how many items were seen once and twice (Ney, Essen and Kneser 1994)."""
    n1, n2 = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    estimate = n1 / (n1 + 2 * n2) if n1 + n2 else DISCOUNTS[0]
    return float(np.clip(estimate, *DISCOUNTS))
