"""Measure validation and training loss and compare them with baselines.

The baselines are uniform, unigram and bigram. Shapes: M targets, D documents.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from provenlm.core.audit import AuditTable, Check, MetricRecorder, PlotSeries
from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation import ngram_baselines
from provenlm.evaluation.arrays import FloatArray
from provenlm.evaluation.ceilings import CausalCeiling, prefix_upper_bound
from provenlm.evaluation.confidence import ratio_interval, record_accuracy
from provenlm.evaluation.ngram_overlap import OVERLAP_TOKENS, overlap_mask
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import EvalWindows, TokenLosses, make_windows, sample_documents, token_losses

NUM_BINS = 32  # points of the loss curve over a window


@dataclass(frozen=True)
class LossEvalConfig:
    """Configure the loss probes."""

    tokens_per_batch: int = 2048  # tokens of one forward pass
    num_train_tokens: int = 20_000  # minimum number of training targets that are evaluated

    def __post_init__(self) -> None:
        for name, value in (("tokens_per_batch", self.tokens_per_batch), ("num_train_tokens", self.num_train_tokens)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")


def loss_probes(config: LossEvalConfig) -> Mapping[str, Probe]:
    """Return the probes `val` and `train`.

    They run in this order, because the second records the gap between both.
    """
    mean_losses: dict[str, float] = {}

    def val_probe(context: EvalContext, metrics: MetricRecorder) -> None:
        split = context.tokens.val
        metrics.add_count("num_documents", len(split.record_ids), "documents", "Documents of the validation split")
        windows = make_windows(split, context.max_seq_len, np.arange(len(split.record_ids)))
        losses = token_losses(context, split, windows, config.tokens_per_batch, "validation loss")
        mean_losses["val"] = float(losses.nats.mean())
        _record_sizes(metrics, split, losses, context.tokens.special_tokens)
        _record_loss(metrics, losses, split)
        _record_accuracy(metrics, losses, causal_ceiling(split, windows), context.tokens.vocab_size, "validation targets")
        _record_baselines(metrics, context, losses)

    def train_probe(context: EvalContext, metrics: MetricRecorder) -> None:
        split = context.tokens.train
        windows = make_windows(split, context.max_seq_len, sample_documents(split, config.num_train_tokens, context.seed))
        losses = token_losses(context, split, windows, config.tokens_per_batch, "training loss")
        ceiling = causal_ceiling(split, windows)
        metrics.add_count("num_targets", len(losses.nats), "tokens", "Training targets that were evaluated, of sampled documents")
        metrics.add_measurement("loss", float(losses.nats.mean()), "nats/token", "Mean loss on training documents without dropout")
        metrics.add_count(
            "min_achievable_loss",
            ceiling.min_loss,
            "nats/token",
            "Lowest loss of any causal predictor on the evaluated training documents, by enumerating prefixes",
        )
        _record_accuracy(metrics, losses, ceiling, context.tokens.vocab_size, "training targets")
        unigram = ngram_baselines.fit_ngrams(split, context.tokens.vocab_size)[0].nats(np.asarray(split.ids[losses.token_index]))
        description = "Mean loss of the unigram baseline, fitted on the whole training split, on the evaluated training targets"
        metrics.add_measurement("unigram.loss", float(unigram.mean()), "nats/token", description)
        if "val" in mean_losses:
            gap = mean_losses["val"] - float(losses.nats.mean())
            metrics.add_measurement("generalization_gap", gap, "nats/token", "Validation loss minus training loss")

    checks = {
        "bits_per_byte": Check(
            "< bigram.bits_per_byte", "the model is no better than token-pair counts: train longer or a larger model"
        ),
        "gain_over.unigram.ci_low": Check(
            "> 0", "the model is not significantly better than token counts: look at the training curve"
        ),
        "decontaminated.gain_over.bigram": Check(
            "> 0", "the model is better than token-pair counts on repeated text only: deduplicate more"
        ),
    }
    return {
        "val": Probe(val_probe, frozenset({"next_token_logits", "validation_split"}), checks),
        "train": Probe(train_probe, frozenset({"next_token_logits"})),
    }


def causal_ceiling(split: DatasetSplit, windows: EvalWindows) -> CausalCeiling:
    """Compute the best accuracy and loss of a causal predictor on windows."""
    return prefix_upper_bound(
        (split.ids[start : stop + 1].tolist(), 1) for start, stop in zip(windows.starts, windows.stops, strict=True)
    )


def _record_sizes(metrics: MetricRecorder, split: DatasetSplit, losses: TokenLosses, special_tokens: Mapping[str, int]) -> None:
    metrics.add_count("num_bytes", int(split.doc_bytes.sum()), "bytes", "Content bytes of the validation documents")
    metrics.add_count("num_tokens", len(split.ids), "tokens", "Tokens of the validation documents, including special tokens")
    description = "Targets of the validation documents: all tokens except the first of each document"
    metrics.add_count("num_targets", len(losses.nats), "tokens", description)
    first_ids = split.ids[split.doc_offsets[:-1]]
    num_unscored = int(np.count_nonzero(first_ids != special_tokens.get("bos", -1)))
    description = "Validation documents that begin without `bos`, so that the loss of their first token is not counted"
    metrics.add_count("unscored_documents", num_unscored, "documents", description)


def _record_loss(metrics: MetricRecorder, losses: TokenLosses, split: DatasetSplit) -> None:
    """Record the validation loss with its interval, and the perplexity.

    The loss is in nats per token and bits per byte, the interval over documents.
    """
    num_documents = len(split.record_ids)
    nats_D, targets_D = (
        losses.sum_by_document(losses.nats, num_documents),
        losses.sum_by_document(np.ones(len(losses.nats)), num_documents),
    )
    for name, unit, interval in (
        ("loss", "nats/token", ratio_interval(nats_D, targets_D)),
        ("bits_per_byte", "bits/byte", ratio_interval(nats_D / math.log(2), split.doc_bytes.astype(np.float64))),
    ):
        metrics.add_measurement(name, interval.value, unit, f"Mean loss of the model over all validation targets, in {unit}")
        if num_documents > 1:
            metrics.add_measurement(
                f"{name}.ci_low", interval.low, unit, "Lower end of the 95 % interval, over documents, of the validation loss"
            )
            metrics.add_measurement(
                f"{name}.ci_high", interval.high, unit, "Upper end of the 95 % interval, over documents, of the validation loss"
            )
    metrics.add_measurement("perplexity", math.exp(float(losses.nats.mean())), "tokens", "exp(validation loss in nats per token)")


def _record_accuracy(
    metrics: MetricRecorder, losses: TokenLosses, ceiling: CausalCeiling, vocab_size: int, data_label: str
) -> None:
    """Record the accuracy over the documents that occur in `losses`."""
    document_index = np.unique(losses.document, return_inverse=True)[1]
    num_correct, num_targets = (
        np.bincount(document_index, weights=weights).astype(np.float64)
        for weights in (losses.correct, np.ones(len(losses.correct)))
    )
    record_accuracy(metrics, num_correct, num_targets, ceiling.max_accuracy, vocab_size, data_label)


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
        description = f"Mean loss of the {name} baseline, fitted on the training split, over all validation targets"
        metrics.add_measurement(f"{name}.loss", float(nats_M.mean()), "nats/token", description)
        metrics.add_measurement(f"{name}.bits_per_byte", _bits_per_byte(nats_M, split), "bits/byte", description)
        _record_gain(
            metrics,
            f"gain_over.{name}",
            losses,
            nats_M - losses.nats,
            len(split.record_ids),
            f"{name} baseline, validation targets",
        )
    _record_decontaminated(metrics, context, losses, nats["bigram"])
    accuracy = float((bigram.top_continuations()[previous] == following).mean())
    metrics.add_measurement(
        "bigram.accuracy",
        accuracy,
        "fraction",
        "Fraction of validation targets that were the most probable next token of the bigram baseline",
    )
    metrics.series.append(_loss_by_position({"model": losses.nats, "bigram": nats["bigram"]}, losses))
    metrics.series.append(_loss_by_document({"model": losses.nats, "bigram": nats["bigram"]}, losses, len(split.record_ids)))
    metrics.tables.append(_predictor_table({**nats, "model": losses.nats}, split))


def _record_decontaminated(metrics: MetricRecorder, context: EvalContext, losses: TokenLosses, bigram_M: FloatArray) -> None:
    """Record loss and gain on validation targets outside overlaps with training."""
    train, val = context.tokens.train, context.tokens.val
    clean_M = ~overlap_mask(np.asarray(val.ids), np.asarray(train.ids), OVERLAP_TOKENS)[losses.token_index]
    data_label = f"validation targets outside {OVERLAP_TOKENS}-token overlaps with the training split"
    metrics.add_count("decontaminated.num_targets", int(clean_M.sum()), "tokens", f"Number of {data_label}")
    if not clean_M.any():
        return
    clean = losses.select(clean_M)
    metrics.add_measurement(
        "decontaminated.loss", float(clean.nats.mean()), "nats/token", f"Mean loss of the model over {data_label}"
    )
    _record_gain(
        metrics,
        "decontaminated.gain_over.bigram",
        clean,
        bigram_M[clean_M] - clean.nats,
        len(val.record_ids),
        f"bigram baseline, {data_label}",
    )


def _record_gain(
    metrics: MetricRecorder, name: str, losses: TokenLosses, gain_M: FloatArray, num_documents: int, data_label: str
) -> None:
    """Record the mean gain over a baseline and the lower end of its interval."""
    gain = ratio_interval(
        losses.sum_by_document(gain_M, num_documents), losses.sum_by_document(np.ones(len(gain_M)), num_documents)
    )
    description = f"Loss of a baseline minus loss of the model, > 0 if the model is better ({data_label})"
    metrics.add_measurement(name, gain.value, "nats/token", description)
    if num_documents > 1:
        metrics.add_measurement(
            f"{name}.ci_low",
            gain.low,
            "nats/token",
            f"Lower end of the 95 % interval, over documents, of the gain ({data_label})",
        )


def _bits_per_byte(nats_M: FloatArray, split: DatasetSplit) -> float:
    """Convert losses in nats to bits per content byte of the split."""
    return float(nats_M.sum()) / math.log(2) / float(split.doc_bytes.sum())


def _loss_by_position(nats: Mapping[str, FloatArray], losses: TokenLosses) -> PlotSeries:
    edges = np.unique(np.linspace(0, losses.window_position.max() + 1, NUM_BINS + 1).astype(np.int64))
    bins = np.searchsorted(edges, losses.window_position, side="right") - 1
    count = np.bincount(bins, minlength=len(edges) - 1)
    lines = {name: (np.bincount(bins, weights=values) / count).round(5).tolist() for name, values in nats.items()}
    description = "Mean validation loss by the number of earlier tokens in the window"
    return PlotSeries(
        "loss_by_position", "line", description, "position in window (tokens)", "loss (nats/token)", edges[:-1].tolist(), lines
    )


def _loss_by_document(nats: Mapping[str, FloatArray], losses: TokenLosses, num_documents: int) -> PlotSeries:
    targets = np.maximum(np.bincount(losses.document, minlength=num_documents), 1)
    means = {name: losses.sum_by_document(values, num_documents) / targets for name, values in nats.items()}
    order = np.argsort(means["model"], kind="stable")
    lines = {name: values[order].round(5).tolist() for name, values in means.items()}
    description = "Mean loss of each validation document, sorted by the loss of the model"
    return PlotSeries("loss_by_document", "line", description, "document", "loss (nats/token)", list(range(num_documents)), lines)


def _predictor_table(nats: Mapping[str, FloatArray], split: DatasetSplit) -> AuditTable:
    means = {name: float(nats_M.mean()) for name, nats_M in nats.items()}
    rows = [(name, round(m, 4), round(math.exp(m), 2), round(_bits_per_byte(nats[name], split), 4)) for name, m in means.items()]
    description = "Loss of each predictor on all validation targets"
    return AuditTable("predictors", description, ("predictor", "nats/token", "perplexity", "bits/byte"), rows)
