"""Record how well a model predicts the next token of music.

That is its loss beside n-grams, and what it repeats.
"""

import numpy as np
import torch

from provenlm.core import rng
from provenlm.core.audit import MetricRecorder
from provenlm.domains.music.evaluate.backoff_ngrams import fit_backoff, is_target
from provenlm.domains.music.evaluate.config import MusicEvalConfig
from provenlm.evaluation.generate import generate
from provenlm.evaluation.probe import EvalContext
from provenlm.evaluation.token_loss import make_windows, token_losses
from provenlm.models.generation.sampling import GREEDY

NUM_GREEDY_TOKENS = 24


def record_ngram_baseline(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig) -> None:
    """Record the loss of the model and of n-gram models on the same held-out tokens."""
    val = context.tokens.val
    order = rng.make_rng(context.seed, "val pieces").permutation(len(val.record_ids))
    num_pieces = int(np.searchsorted(np.cumsum(np.diff(val.doc_offsets)[order]), config.num_val_tokens)) + 1
    pieces = np.sort(order[:num_pieces]).astype(np.int64)
    losses = token_losses(context, val, make_windows(val, context.max_seq_len, pieces), config.tokens_per_batch, "ngram_baseline")
    model = fit_backoff(context.tokens.train, context.tokens.vocab_size, config.ngram_order)
    nats = np.full(len(val.ids), np.nan)
    metrics.add_count("tokens", len(losses.nats), "tokens", "Held-out tokens on which model and n-gram models are compared")
    metrics.add_measurement("loss", float(losses.nats.mean()), "nats/token", "Mean loss of the model on held-out pieces")
    for name, ngram_order in (("unigram", 1), ("backoff", config.ngram_order)):
        nats[is_target(val)] = model.nats(val, ngram_order)
        loss = float(nats[losses.token_index].mean())
        description = (
            f"Mean loss of a {ngram_order}-gram model with Witten-Bell backoff, fitted on the training split, on the same tokens"
        )
        metrics.add_measurement(f"{name}.loss", loss, "nats/token", description)


def record_greedy_repetition(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record how repetitive greedy generation from `bos` is."""
    bos = context.tokens.special_tokens["bos"]
    tokens = generate(context, [[bos]], GREEDY, NUM_GREEDY_TOKENS, torch.Generator())[0]
    runs = np.diff(np.flatnonzero(np.diff(np.array([-1, *tokens, -1])) != 0))
    metrics.add_measurement(
        "distinct_tokens", len(set(tokens)), "tokens", f"Distinct tokens among the first {NUM_GREEDY_TOKENS} of greedy generation"
    )
    metrics.add_measurement("longest_run", int(runs.max(initial=0)), "tokens", "Longest run of one token in greedy generation")
