"""Fit the unigram and bigram baselines that a trained model must beat.

Both interpolate with absolute discounting, the bigram in the form of Kneser and Ney (1995): its lower-order distribution counts
after how many distinct tokens a token occurs, not how often (Chen and Goodman 1999, section 2.7). V is the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation.arrays import FloatArray, IntArray

DISCOUNTS = (0.1, 0.95)  # limits of the estimate, which leaves [0, 1] on a corpus with few rare tokens: no probability may be 0


@dataclass(frozen=True)
class UnigramModel:
    """Hold unigram probabilities, which sum to 1 and are never 0."""

    probabilities_V: FloatArray

    def nats(self, following: NDArray[Any]) -> FloatArray:
        """Return -ln p(following), elementwise."""
        nats: FloatArray = -np.log(self.probabilities_V[following])
        return nats


@dataclass(frozen=True)
class BigramModel:
    """Hold an interpolated bigram model.

    `pair_ids`: the pairs of the training data, `previous * V + following`, sorted; `discounted_probs`: their discounted relative
    frequencies. `backoff_weights_V`: the weight of `lower_order` in each context, 1 for a context without data.
    """

    pair_ids: IntArray
    discounted_probs: FloatArray
    backoff_weights_V: FloatArray
    lower_order: UnigramModel

    def probabilities(self, previous: NDArray[Any], following: NDArray[Any]) -> FloatArray:
        """Return p(following | previous), elementwise."""
        vocab_size = len(self.backoff_weights_V)
        query = previous.astype(np.int64) * vocab_size + following.astype(np.int64)
        index = np.minimum(np.searchsorted(self.pair_ids, query), len(self.pair_ids) - 1)
        higher_order = np.where(self.pair_ids[index] == query, self.discounted_probs[index], 0.0)
        mixture: FloatArray = higher_order + self.backoff_weights_V[previous] * self.lower_order.probabilities_V[following]
        return mixture

    def nats(self, previous: NDArray[Any], following: NDArray[Any]) -> FloatArray:
        """Return -ln p(following | previous), elementwise."""
        nats: FloatArray = -np.log(self.probabilities(previous, following))
        return nats

    def top_continuations(self) -> IntArray:
        """Return the most probable token after each token, (V,)."""
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
    """Fit both models on the pairs of successive tokens within documents.

    ValueError if there is no pair.
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
    """Discount `counts_V` and distribute the removed mass uniformly."""
    discount = _discount(counts_V[counts_V > 0])
    total, num_seen = counts_V.sum(), np.count_nonzero(counts_V)
    discounted_V: FloatArray = np.maximum(counts_V - discount, 0) / total
    smoothed_V: FloatArray = discounted_V + discount * num_seen / total / len(counts_V)
    return smoothed_V


def _discount(counts: NDArray[Any]) -> float:
    """Estimate the discount n1 / (n1 + 2 n2).

    n1 and n2 are the numbers of items with counts 1 and 2 (Ney, Essen and Kneser 1994).
    """
    n1, n2 = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    estimate = n1 / (n1 + 2 * n2) if n1 + n2 else DISCOUNTS[0]
    return float(np.clip(estimate, *DISCOUNTS))
