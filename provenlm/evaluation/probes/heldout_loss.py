"""Held-out loss beside uniform, unigram and bigram on the very same targets, and the training loss beside its floor.

M targets, D documents.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation import ngram_baselines
from provenlm.evaluation.ceilings import CausalCeiling, prefix_upper_bound
from provenlm.evaluation.confidence import ratio_interval, record_accuracy
from provenlm.evaluation.ngram_overlap import OVERLAP_TOKENS, overlap_mask
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import EvalWindows, FloatArray, TokenLosses, make_windows, sample_documents, token_losses

NUM_BINS = 32  # points of the curve over a window: enough to see where context stops helping


@dataclass(frozen=True)
class LossEvalConfig:
    """The `loss` section of validate, typed."""

    tokens_per_batch: int  # tokens that go forward at once
    num_train_tokens: int  # least number of training targets whose loss is measured beside the held-out one

    def __post_init__(self) -> None:
        if self.tokens_per_batch < 1 or self.num_train_tokens < 1:
            raise ValueError("batch_tokens and training_tokens must be at least 1")


def loss_probes(config: LossEvalConfig) -> Mapping[str, Probe]:
    """`heldout` and `training`, in this order: the second also says the gap between the two."""
    mean_losses: dict[str, float] = {}

    def val_probe(context: EvalContext, metrics: MetricRecorder) -> None:
        split = context.tokens.val
        metrics.add_count("documents", len(split.record_ids), "documents", "documents that were never trained on")
        if not split.record_ids:
            return  # nothing was held out: no figure claims to be about it
        windows = make_windows(split, context.max_seq_len, np.arange(len(split.record_ids)))
        losses = token_losses(context, split, windows, config.tokens_per_batch, "held-out loss")
        mean_losses["heldout"] = float(losses.nats.mean())
        _record_sizes(metrics, split, losses, context.tokens.special_tokens)
        _record_loss(metrics, losses, split)
        _record_accuracy(metrics, losses, causal_ceiling(split, windows), context.tokens.vocab_size)
        _record_baselines(metrics, context, losses)

    def train_probe(context: EvalContext, metrics: MetricRecorder) -> None:
        split = context.tokens.train
        windows = make_windows(split, context.max_seq_len, sample_documents(split, config.num_train_tokens, context.seed))
        losses = token_losses(context, split, windows, config.tokens_per_batch, "training loss")
        ceiling = causal_ceiling(split, windows)
        metrics.add_count("targets", len(losses.nats), "tokens", "training targets of the documents drawn for this measurement")
        metrics.add_measurement("nats", float(losses.nats.mean()), "nats/token", "mean loss on training documents, dropout off")
        metrics.add_count(
            "floor", ceiling.min_loss, "nats/token", "least loss any causal predictor could have on them, by enumerating prefixes"
        )
        _record_accuracy(metrics, losses, ceiling, context.tokens.vocab_size)
        unigram = ngram_baselines.fit_ngrams(split, context.tokens.vocab_size)[0].nats(np.asarray(split.ids[losses.token_index]))
        description = "mean loss of the unigram baseline, fitted on the whole training split, over the same targets"
        metrics.add_measurement("unigram.nats", float(unigram.mean()), "nats/token", description)
        if "heldout" in mean_losses:
            gap = mean_losses["heldout"] - float(losses.nats.mean())
            metrics.add_measurement("gap", gap, "nats/token", "held-out loss minus training loss: how much was learned by heart")

    return {"heldout": val_probe, "training": train_probe}


def causal_ceiling(split: DatasetSplit, windows: EvalWindows) -> CausalCeiling:
    """Ceiling and floor of a causal predictor that sees each window of `rows` from its first token."""
    return prefix_upper_bound(
        (split.ids[start : stop + 1].tolist(), 1) for start, stop in zip(windows.starts, windows.stops, strict=True)
    )


def _record_sizes(metrics: MetricRecorder, split: DatasetSplit, losses: TokenLosses, special_tokens: Mapping[str, int]) -> None:
    metrics.add_count("bytes", int(split.doc_bytes.sum()), "bytes", "body bytes of the held-out documents")
    metrics.add_count("tokens", len(split.ids), "tokens", "held-out tokens, special ones included")
    description = "held-out tokens that were asked for: all but the first of each document"
    metrics.add_count("targets", len(losses.nats), "tokens", description)
    first_ids = split.ids[split.doc_offsets[:-1]]
    num_unscored = int(np.count_nonzero(first_ids != special_tokens.get("bos", -1)))
    description = "documents whose first token is text, not a `bos`: nothing stands before it, so no figure counts its loss"
    metrics.add_count("unasked", num_unscored, "documents", description)


def _record_loss(metrics: MetricRecorder, losses: TokenLosses, split: DatasetSplit) -> None:
    """The net's loss with its interval over documents, in nats per token and bits per byte; and perplexity."""
    num_documents = len(split.record_ids)
    nats_D, targets_D = (
        losses.sum_by_document(losses.nats, num_documents),
        losses.sum_by_document(np.ones(len(losses.nats)), num_documents),
    )
    for name, unit, interval in (
        ("nats", "nats/token", ratio_interval(nats_D, targets_D)),
        ("bits_per_byte", "bits/byte", ratio_interval(nats_D / math.log(2), split.doc_bytes.astype(np.float64))),
    ):
        metrics.add_measurement(name, interval.value, unit, "mean loss of the net over all held-out targets")
        if num_documents > 1:
            metrics.add_measurement(
                f"{name}.low", interval.low, unit, "lower end of its 95 % interval, documents as the independent draws"
            )
            metrics.add_measurement(
                f"{name}.high", interval.high, unit, "upper end of its 95 % interval, documents as the independent draws"
            )
    metrics.add_measurement("perplexity", math.exp(float(losses.nats.mean())), "tokens", "exp of the mean loss in nats per token")


def _record_accuracy(metrics: MetricRecorder, losses: TokenLosses, ceiling: CausalCeiling, vocab_size: int) -> None:
    """Documents that were not looked at count for nothing."""
    document_index = np.unique(losses.document, return_inverse=True)[1]
    num_correct, num_targets = (
        np.bincount(document_index, weights=weights).astype(np.float64)
        for weights in (losses.correct, np.ones(len(losses.correct)))
    )
    record_accuracy(metrics, num_correct, num_targets, ceiling.max_accuracy, vocab_size)


def _record_baselines(metrics: MetricRecorder, context: EvalContext, losses: TokenLosses) -> None:
    split, vocab_size = context.tokens.val, context.tokens.vocab_size
    unigram, bigram = ngram_baselines.fit_ngrams(context.tokens.train, vocab_size)
    previous, following = np.asarray(split.ids[losses.token_index - 1]), np.asarray(split.ids[losses.token_index])
    nats = {
        "uniform": np.full(len(following), math.log(vocab_size)),
        "unigram": unigram.nats(following),
        "bigram": bigram.nats(previous, following),
    }
    for name, nats_M in nats.items():
        description = f"mean loss of the {name} baseline, fitted on the training tokens, over the same held-out targets"
        metrics.add_measurement(f"{name}.nats", float(nats_M.mean()), "nats/token", description)
        metrics.add_measurement(f"{name}.bits_per_byte", _bits_per_byte(nats_M, split), "bits/byte", description)
        _record_gain(metrics, f"margin.{name}", losses, nats_M - losses.nats, len(split.record_ids))
    _record_decontaminated(metrics, context, losses, nats["bigram"])
    accuracy = float((bigram.top_continuations()[previous] == following).mean())
    metrics.add_measurement(
        "bigram.accuracy", accuracy, "share", "targets that were the bigram baseline's most probable next token"
    )
    metrics.series.append(_loss_by_position({"net": losses.nats, "bigram": nats["bigram"]}, losses))
    metrics.series.append(_loss_by_document({"net": losses.nats, "bigram": nats["bigram"]}, losses, len(split.record_ids)))
    metrics.tables.append(_predictor_table({**nats, "the net": losses.nats}, split))


def _record_decontaminated(metrics: MetricRecorder, context: EvalContext, losses: TokenLosses, bigram_M: FloatArray) -> None:
    """The same where the text is new: what stands verbatim in training too can be had by heart."""
    train, val = context.tokens.train, context.tokens.val
    clean_M = ~overlap_mask(np.asarray(val.ids), np.asarray(train.ids), OVERLAP_TOKENS)[losses.token_index]
    condition = f"that stand in no stretch of {OVERLAP_TOKENS} tokens that the training split holds verbatim"
    metrics.add_count("novel.targets", int(clean_M.sum()), "tokens", f"held-out targets {condition}")
    if not clean_M.any():
        return
    clean = losses.select(clean_M)
    metrics.add_measurement(
        "novel.nats", float(clean.nats.mean()), "nats/token", f"mean loss of the net over held-out targets {condition}"
    )
    _record_gain(metrics, "novel.margin.bigram", clean, bigram_M[clean_M] - clean.nats, len(val.record_ids))


def _record_gain(metrics: MetricRecorder, name: str, losses: TokenLosses, gain_M: FloatArray, num_documents: int) -> None:
    gain = ratio_interval(
        losses.sum_by_document(gain_M, num_documents), losses.sum_by_document(np.ones(len(gain_M)), num_documents)
    )
    description = "baseline's loss minus the net's, target by target: above nought, the net is better"
    metrics.add_measurement(name, gain.value, "nats/token", description)
    if num_documents > 1:
        metrics.add_measurement(
            f"{name}.low", gain.low, "nats/token", "lower end of its 95 % interval, documents as the independent draws"
        )


def _bits_per_byte(nats_M: FloatArray, split: DatasetSplit) -> float:
    """Bits per byte of the held-out bodies."""
    return float(nats_M.sum()) / math.log(2) / float(split.doc_bytes.sum())


def _loss_by_position(nats: Mapping[str, FloatArray], losses: TokenLosses) -> PlotSeries:
    edges = np.unique(np.linspace(0, losses.window_position.max() + 1, NUM_BINS + 1).astype(np.int64))
    bins = np.searchsorted(edges, losses.window_position, side="right") - 1
    count = np.bincount(bins, minlength=len(edges) - 1)
    lines = {name: (np.bincount(bins, weights=values) / count).round(5).tolist() for name, values in nats.items()}
    description = "mean held-out loss by how many tokens of its window stood before the target's own input"
    return PlotSeries("by_place", "lines", description, "place in window (tokens)", "loss (nats/token)", edges[:-1].tolist(), lines)


def _loss_by_document(nats: Mapping[str, FloatArray], losses: TokenLosses, num_documents: int) -> PlotSeries:
    targets = np.maximum(np.bincount(losses.document, minlength=num_documents), 1)
    means = {name: losses.sum_by_document(values, num_documents) / targets for name, values in nats.items()}
    order = np.argsort(means["net"], kind="stable")
    lines = {name: values[order].round(5).tolist() for name, values in means.items()}
    description = "mean loss of each held-out document, in the order of the net's"
    return PlotSeries("by_document", "lines", description, "document", "loss (nats/token)", list(range(num_documents)), lines)


def _predictor_table(nats: Mapping[str, FloatArray], split: DatasetSplit) -> AuditTable:
    means = {name: float(nats_M.mean()) for name, nats_M in nats.items()}
    rows = [(name, round(m, 4), round(math.exp(m), 2), round(_bits_per_byte(nats[name], split), 4)) for name, m in means.items()]
    description = "what each predictor loses on the same held-out targets"
    return AuditTable("predictors", description, ("predictor", "nats/token", "perplexity", "bits/byte"), rows)
