"""Held-out loss beside uniform, unigram and bigram on the very same targets, and the training loss beside its floor.

M targets, D documents.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from provenlm.core.audit import Recorder, Series, Table
from provenlm.data.token_dataset import Split
from provenlm.evaluation import ngram_baselines
from provenlm.evaluation.ceilings import Attainable, by_prefix
from provenlm.evaluation.confidence import ratio, record_accuracy
from provenlm.evaluation.ngram_overlap import VERBATIM, covered
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.token_loss import Floats, Losses, Windows, measure, some_documents, windows

BINS = 32  # points of the curve over a window: enough to see where context stops helping


@dataclass(frozen=True)
class Settings:
    """The `loss` section of validate, typed."""

    batch_tokens: int  # tokens that go forward at once
    training_tokens: int  # least number of training targets whose loss is measured beside the held-out one

    def __post_init__(self) -> None:
        if self.batch_tokens < 1 or self.training_tokens < 1:
            raise ValueError("batch_tokens and training_tokens must be at least 1")


def probes(settings: Settings) -> Mapping[str, Probe]:
    """`heldout` and `training`, in this order: the second also says the gap between the two."""
    measured: dict[str, float] = {}

    def heldout(subject: Subject, figures: Recorder) -> None:
        split = subject.tokens.val
        figures.counted("documents", len(split.record_ids), "documents", "documents that were never trained on")
        if not split.record_ids:
            return  # nothing was held out: no figure claims to be about it
        rows = windows(split, subject.length, np.arange(len(split.record_ids)))
        losses = measure(subject, split, rows, settings.batch_tokens, "held-out loss")
        measured["heldout"] = float(losses.nats.mean())
        _sizes(figures, split, losses, subject.tokens.special)
        _loss(figures, losses, split)
        _accuracy(figures, losses, attainable(split, rows), subject.tokens.vocabulary)
        _beside_baselines(figures, subject, losses)

    def training(subject: Subject, figures: Recorder) -> None:
        split = subject.tokens.train
        rows = windows(split, subject.length, some_documents(split, settings.training_tokens, subject.seed))
        losses = measure(subject, split, rows, settings.batch_tokens, "training loss")
        best = attainable(split, rows)
        figures.counted("targets", len(losses.nats), "tokens", "training targets of the documents drawn for this measurement")
        figures.measured("nats", float(losses.nats.mean()), "nats/token", "mean loss on training documents, dropout off")
        figures.counted(
            "floor", best.nats, "nats/token", "least loss any causal predictor could have on them, by enumerating prefixes"
        )
        _accuracy(figures, losses, best, subject.tokens.vocabulary)
        unigram = ngram_baselines.fit(split, subject.tokens.vocabulary)[0].nats(np.asarray(split.ids[losses.index]))
        meaning = "mean loss of the unigram baseline, fitted on the whole training split, over the same targets"
        figures.measured("unigram.nats", float(unigram.mean()), "nats/token", meaning)
        if "heldout" in measured:
            gap = measured["heldout"] - float(losses.nats.mean())
            figures.measured("gap", gap, "nats/token", "held-out loss minus training loss: how much was learned by heart")

    return {"heldout": heldout, "training": training}


def attainable(split: Split, rows: Windows) -> Attainable:
    """Ceiling and floor of a causal predictor that sees each window of `rows` from its first token."""
    return by_prefix((split.ids[a : b + 1].tolist(), 1) for a, b in zip(rows.starts, rows.stops, strict=True))


def _sizes(figures: Recorder, split: Split, losses: Losses, special: Mapping[str, int]) -> None:
    figures.counted("bytes", int(split.bytes.sum()), "bytes", "body bytes of the held-out documents")
    figures.counted("tokens", len(split.ids), "tokens", "held-out tokens, special ones included")
    meaning = "held-out tokens that were asked for: all but the first of each document"
    figures.counted("targets", len(losses.nats), "tokens", meaning)
    firsts = split.ids[split.starts[:-1]]
    silent = int(np.count_nonzero(firsts != special.get("bos", -1)))
    meaning = "documents whose first token is text, not a `bos`: nothing stands before it, so no figure counts its loss"
    figures.counted("unasked", silent, "documents", meaning)


def _loss(figures: Recorder, losses: Losses, split: Split) -> None:
    """The net's loss with its interval over documents, in nats per token and bits per byte; and perplexity."""
    documents = len(split.record_ids)
    nats_D, targets_D = losses.by_document(losses.nats, documents), losses.by_document(np.ones(len(losses.nats)), documents)
    for name, unit, found in (
        ("nats", "nats/token", ratio(nats_D, targets_D)),
        ("bits_per_byte", "bits/byte", ratio(nats_D / math.log(2), split.bytes.astype(np.float64))),
    ):
        figures.measured(name, found.value, unit, "mean loss of the net over all held-out targets")
        if documents > 1:
            figures.measured(f"{name}.low", found.low, unit, "lower end of its 95 % interval, documents as the independent draws")
            figures.measured(f"{name}.high", found.high, unit, "upper end of its 95 % interval, documents as the independent draws")
    figures.measured("perplexity", math.exp(float(losses.nats.mean())), "tokens", "exp of the mean loss in nats per token")


def _accuracy(figures: Recorder, losses: Losses, best: Attainable, vocabulary: int) -> None:
    """Documents that were not looked at count for nothing."""
    looked = np.unique(losses.document, return_inverse=True)[1]
    right, asked = (np.bincount(looked, weights=w).astype(np.float64) for w in (losses.right, np.ones(len(losses.right))))
    record_accuracy(figures, right, asked, best.accuracy, vocabulary)


def _beside_baselines(figures: Recorder, subject: Subject, losses: Losses) -> None:
    split, vocabulary = subject.tokens.val, subject.tokens.vocabulary
    unigram, bigram = ngram_baselines.fit(subject.tokens.train, vocabulary)
    previous, following = np.asarray(split.ids[losses.index - 1]), np.asarray(split.ids[losses.index])
    nats = {
        "uniform": np.full(len(following), math.log(vocabulary)),
        "unigram": unigram.nats(following),
        "bigram": bigram.nats(previous, following),
    }
    for name, nats_M in nats.items():
        meaning = f"mean loss of the {name} baseline, fitted on the training tokens, over the same held-out targets"
        figures.measured(f"{name}.nats", float(nats_M.mean()), "nats/token", meaning)
        figures.measured(f"{name}.bits_per_byte", _bits(nats_M, split), "bits/byte", meaning)
        _margin(figures, f"margin.{name}", losses, nats_M - losses.nats, len(split.record_ids))
    _novel(figures, subject, losses, nats["bigram"])
    accuracy = float((bigram.best()[previous] == following).mean())
    figures.measured("bigram.accuracy", accuracy, "share", "targets that were the bigram baseline's most probable next token")
    figures.series.append(_by_place({"net": losses.nats, "bigram": nats["bigram"]}, losses))
    figures.series.append(_by_document({"net": losses.nats, "bigram": nats["bigram"]}, losses, len(split.record_ids)))
    figures.tables.append(_table({**nats, "the net": losses.nats}, split))


def _novel(figures: Recorder, subject: Subject, losses: Losses, bigram_M: Floats) -> None:
    """The same where the text is new: what stands verbatim in training too can be had by heart."""
    train, val = subject.tokens.train, subject.tokens.val
    novel_M = ~covered(np.asarray(val.ids), np.asarray(train.ids), VERBATIM)[losses.index]
    where = f"that stand in no stretch of {VERBATIM} tokens that the training split holds verbatim"
    figures.counted("novel.targets", int(novel_M.sum()), "tokens", f"held-out targets {where}")
    if not novel_M.any():
        return
    there = losses.only(novel_M)
    figures.measured("novel.nats", float(there.nats.mean()), "nats/token", f"mean loss of the net over held-out targets {where}")
    _margin(figures, "novel.margin.bigram", there, bigram_M[novel_M] - there.nats, len(val.record_ids))


def _margin(figures: Recorder, name: str, losses: Losses, won_M: Floats, documents: int) -> None:
    won = ratio(losses.by_document(won_M, documents), losses.by_document(np.ones(len(won_M)), documents))
    meaning = "baseline's loss minus the net's, target by target: above nought, the net is better"
    figures.measured(name, won.value, "nats/token", meaning)
    if documents > 1:
        figures.measured(f"{name}.low", won.low, "nats/token", "lower end of its 95 % interval, documents as the independent draws")


def _bits(nats_M: Floats, split: Split) -> float:
    """Bits per byte of the held-out bodies."""
    return float(nats_M.sum()) / math.log(2) / float(split.bytes.sum())


def _by_place(nats: Mapping[str, Floats], losses: Losses) -> Series:
    edges = np.unique(np.linspace(0, losses.place.max() + 1, BINS + 1).astype(np.int64))
    bins = np.searchsorted(edges, losses.place, side="right") - 1
    count = np.bincount(bins, minlength=len(edges) - 1)
    lines = {name: (np.bincount(bins, weights=values) / count).round(5).tolist() for name, values in nats.items()}
    meaning = "mean held-out loss by how many tokens of its window stood before the target's own input"
    return Series("by_place", "lines", meaning, "place in window (tokens)", "loss (nats/token)", edges[:-1].tolist(), lines)


def _by_document(nats: Mapping[str, Floats], losses: Losses, documents: int) -> Series:
    targets = np.maximum(np.bincount(losses.document, minlength=documents), 1)
    means = {name: losses.by_document(values, documents) / targets for name, values in nats.items()}
    order = np.argsort(means["net"], kind="stable")
    lines = {name: values[order].round(5).tolist() for name, values in means.items()}
    meaning = "mean loss of each held-out document, in the order of the net's"
    return Series("by_document", "lines", meaning, "document", "loss (nats/token)", list(range(documents)), lines)


def _table(nats: Mapping[str, Floats], split: Split) -> Table:
    means = {name: float(nats_M.mean()) for name, nats_M in nats.items()}
    rows = [(name, round(m, 4), round(math.exp(m), 2), round(_bits(nats[name], split), 4)) for name, m in means.items()]
    meaning = "what each predictor loses on the same held-out targets"
    return Table("predictors", meaning, ("predictor", "nats/token", "perplexity", "bits/byte"), rows)
