"""Evaluate models of music: loss beside n-grams, grammar, musical metrics and originality of samples.

Every figure of samples has a ceiling, real pieces against other real pieces, and a floor, tokens drawn from their frequencies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.core.ngram_hashing import Hashes
from provenlm.data.token_dataset import DatasetSplit
from provenlm.domains.music.content.musical_metrics import METRICS, STEPS_PER_QUARTER, measure_notes
from provenlm.domains.music.content.score import NoteTable, note_table, read_score
from provenlm.domains.music.evaluate.backoff_ngrams import fit_backoff, is_target
from provenlm.domains.music.evaluate.distributions import overlap_areas
from provenlm.domains.music.evaluate.grammar import grammar_errors
from provenlm.domains.music.evaluate.originality import melody_hashes, shared_ratio
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer
from provenlm.evaluation.generate import generate
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec
from provenlm.evaluation.token_loss import make_windows, token_losses
from provenlm.models.generation.sampling import GREEDY, SamplingConfig

Sequences = list[NDArray[np.int64]]
MIN_PIECES = 2  # to compare distributions
MAX_REPEATS = 8  # of one token in a row
NUM_GREEDY_TOKENS = 24
MIN_DISTINCT_TOKENS = 5


@dataclass(frozen=True)
class MusicEvalConfig:
    """Configure the evaluation of a recipe on music.

    ngram_order: tokens of the longest n-gram of the baseline. num_val_tokens: about how many held-out tokens are scored.
    num_samples, num_sample_tokens: generated pieces and their length; real pieces are cut to the same length.
    """

    ngram_order: int = 6
    num_val_tokens: int = 100_000
    tokens_per_batch: int = 4096
    num_samples: int = 24
    num_sample_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 0.95

    def __post_init__(self) -> None:
        for name, low in (
            ("ngram_order", 2),
            ("num_val_tokens", 1),
            ("tokens_per_batch", 1),
            ("num_samples", 2),
            ("num_sample_tokens", 32),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be >= {low}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Pieces:
    """Hold the token sequences of a set of pieces, the notes of those that have any, and their musical metrics."""

    sequences: Sequences
    notes: list[NoteTable]
    metrics: list[dict[str, float]]


def make_probes(config: MusicEvalConfig) -> Mapping[str, Probe]:
    """Return the probes `ngram_baseline`, `grammar`, `musical_metrics`, `originality` and `greedy_repetition`."""
    samples = cache(lambda key: sample_pieces(key.context, config))

    def pieces_of(context: EvalContext) -> Pieces:
        return samples(_ContextKey(context))

    def ngram_baseline(context: EvalContext, metrics: MetricRecorder) -> None:
        record_ngram_baseline(context, metrics, config)

    def grammar(context: EvalContext, metrics: MetricRecorder) -> None:
        record_grammar(context, metrics, config, pieces_of(context))

    def musical_metrics(context: EvalContext, metrics: MetricRecorder) -> None:
        record_musical_metrics(context, metrics, config, pieces_of(context))

    def originality(context: EvalContext, metrics: MetricRecorder) -> None:
        record_originality(context, metrics, config, pieces_of(context))

    needs = frozenset({"next_token_logits"})
    weak = "an n-gram model predicts held-out pieces better: train longer, or on more pieces"
    return {
        "ngram_baseline": Probe(ngram_baseline, needs | {"validation_split"}, {"loss": Check("< backoff.loss", weak)}),
        "grammar": Probe(
            grammar,
            needs,
            {
                "valid.ceiling": Check("== 1", "real pieces break the grammar: the tokenizer or its grammar is wrong"),
                "valid": Check("> valid.chance", "samples are no better than random tokens: train longer"),
            },
        ),
        "musical_metrics": Probe(
            musical_metrics,
            needs | {"validation_split"},
            {"overlap": Check("> overlap.chance", "samples are no more like music than random tokens")},
        ),
        "originality": Probe(
            originality,
            needs | {"validation_split"},
            {"copied": Check("<= copied.human_p95", "samples copy the training pieces more than human pieces share with them")},
        ),
        "greedy_repetition": Probe(
            record_greedy_repetition,
            needs,
            {
                "distinct_tokens": Check(
                    f">= {MIN_DISTINCT_TOKENS}", "greedy generation repeats a few tokens: the model collapsed"
                ),
                "longest_run": Check(f"<= {MAX_REPEATS}", "greedy generation repeats one token: the model collapsed"),
            },
        ),
    }


@dataclass(frozen=True, eq=False)
class _ContextKey:
    """Compare contexts by identity of their model, so that samples are drawn once for all probes."""

    context: EvalContext

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ContextKey) and other.context is self.context

    def __hash__(self) -> int:
        return id(self.context)


def music_tokenizer(context: EvalContext) -> MidiTokenizer:
    """Return the tokenizer of the recipe. ValueError if it is not one of music."""
    if not isinstance(context.tokenizer, MidiTokenizer):
        raise ValueError(f"the tokenizer must be a MidiTokenizer, got a {type(context.tokenizer).__name__}")
    return context.tokenizer


def sample_pieces(context: EvalContext, config: MusicEvalConfig) -> Pieces:
    """Generate `num_samples` pieces from `bos`; a piece ends at `eos` or after `num_sample_tokens` tokens."""
    bos = context.tokens.special_tokens["bos"]
    sampling = SamplingConfig(temperature=config.temperature, top_k=0, top_p=config.top_p, repetition_penalty=1.0)
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "music samples"))
    outputs = generate(context, [[bos]] * config.num_samples, sampling, config.num_sample_tokens, generator)
    return read_pieces(context, [np.array(output, np.int64) for output in outputs])


def real_pieces(context: EvalContext, split: DatasetSplit, config: MusicEvalConfig, label: str) -> Pieces:
    """Draw pieces of a split, as many as there are samples, each cut to the length of a sample."""
    order = rng.make_rng(context.seed, label).permutation(len(split.record_ids))[: config.num_samples]
    starts = split.doc_offsets[order] + ("bos" in context.tokens.special_tokens)
    ends = np.minimum(split.doc_offsets[order + 1], starts + config.num_sample_tokens)
    return read_pieces(
        context, [np.asarray(split.ids[start:end]).astype(np.int64) for start, end in zip(starts, ends, strict=True)]
    )


def random_pieces(context: EvalContext, config: MusicEvalConfig) -> Pieces:
    """Draw every token from the frequencies of the training split: the floor."""
    ids = np.asarray(context.tokens.train.ids)
    generator = rng.make_rng(context.seed, "random pieces")
    return read_pieces(
        context, [generator.choice(ids, config.num_sample_tokens).astype(np.int64) for _ in range(config.num_samples)]
    )


def read_pieces(context: EvalContext, sequences: Sequences) -> Pieces:
    """Decode sequences and measure those that have notes."""
    tokenizer = music_tokenizer(context)
    tables = [note_table(read_score(tokenizer.decode(ids.tolist())), STEPS_PER_QUARTER) for ids in sequences]
    notes = [table for table in tables if len(table)]
    return Pieces(sequences, notes, [measure_notes(table) for table in notes])


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


def record_grammar(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig, samples: Pieces) -> None:
    """Record the fraction of tokens that follow the grammar: of samples, of real pieces and of random tokens."""
    tokenizer = music_tokenizer(context)

    def valid_ratio(sequences: Sequences) -> float:
        special = set(tokenizer.special_tokens.values())
        tokens = [tokenizer.decode_tokens([i for i in ids.tolist() if i not in special]) for ids in sequences]
        errors = sum(grammar_errors(sequence, tokenizer.successors) for sequence in tokens)
        return 1 - errors / max(1, sum(map(len, tokens)))

    real = real_pieces(context, context.val_or_train_split, config, "grammar")
    fraction = "Fraction of tokens that the grammar of the tokenizer allows after the token before them"
    metrics.add_measurement("valid", valid_ratio(samples.sequences), "fraction", f"{fraction}: samples of the model")
    metrics.add_measurement("valid.ceiling", valid_ratio(real.sequences), "fraction", f"{fraction}: real pieces")
    metrics.add_measurement(
        "valid.chance", valid_ratio(random_pieces(context, config).sequences), "fraction", f"{fraction}: random tokens"
    )
    description = "Samples that decode to a MIDI file with at least one note"
    metrics.add_count("with_notes", len(samples.notes), "pieces", description)
    metrics.add_count("samples", len(samples.sequences), "pieces", "Samples that were generated")


def record_musical_metrics(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig, samples: Pieces) -> None:
    """Record how much the distributions of musical metrics overlap with those of held-out pieces."""
    reference = real_pieces(context, context.tokens.val, config, "reference pieces")
    train = real_pieces(context, context.tokens.train, config, "ceiling pieces")
    floor = random_pieces(context, config)
    for label, pieces in (
        ("samples", samples),
        ("held-out pieces", reference),
        ("training pieces", train),
        ("random pieces", floor),
    ):
        if len(pieces.metrics) < MIN_PIECES:
            raise ValueError(f"{label}: at least {MIN_PIECES} must have notes, got {len(pieces.metrics)}")
    areas = {
        name: overlap_areas(reference.metrics, pieces.metrics)
        for name, pieces in (("model", samples), ("ceiling", train), ("chance", floor))
    }
    overlap = "Mean overlap area, over the musical metrics, with held-out pieces"
    for suffix, name, label in (
        ("", "model", "samples of the model"),
        (".ceiling", "ceiling", "training pieces"),
        (".chance", "chance", "random tokens"),
    ):
        metrics.add_measurement(f"overlap{suffix}", float(np.mean(list(areas[name].values()))), "fraction", f"{overlap}: {label}")
    means = {
        name: {metric: float(np.mean([piece[metric] for piece in pieces.metrics])) for metric in METRICS}
        for name, pieces in (("real", reference), ("model", samples))
    }
    rows: list[tuple[str, float, float, float, float, float]] = [
        (
            name,
            round(means["real"][name], 3),
            round(means["model"][name], 3),
            round(areas["model"][name], 3),
            round(areas["ceiling"][name], 3),
            round(areas["chance"][name], 3),
        )
        for name in METRICS
    ]
    columns = ("metric", "held-out mean", "samples' mean", "overlap", "ceiling", "random tokens")
    metrics.tables.append(AuditTable("metrics", "Musical metrics of samples and of held-out pieces", columns, rows))


def record_originality(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig, samples: Pieces) -> None:
    """Record how much of a melody occurs in the training pieces: of samples, and of held-out human pieces for comparison."""
    tokenizer, train = music_tokenizer(context), context.tokens.train
    hashes: list[Hashes] = [
        melody_hashes(note_table(read_score(tokenizer.decode(train.ids[start:end].tolist())), STEPS_PER_QUARTER))
        for start, end in zip(train.doc_offsets[:-1], train.doc_offsets[1:], strict=True)
    ]
    training_hashes = np.unique(np.concatenate(hashes))
    human = real_pieces(context, context.tokens.val, config, "human pieces")
    model_ratios, human_ratios = (
        [ratio for notes in pieces.notes if (ratio := shared_ratio(notes, training_hashes)) is not None]
        for pieces in (samples, human)
    )
    if not model_ratios or not human_ratios:
        raise ValueError("at least one sample and one held-out piece must have a melody of six notes, got none")
    fraction = "Fraction of six-note patterns of a melody (intervals and rhythm) that occur in training pieces"
    metrics.add_measurement("copied", float(np.mean(model_ratios)), "fraction", f"{fraction}: mean of samples")
    metrics.add_measurement("copied.max", float(np.max(model_ratios)), "fraction", f"{fraction}: largest of a sample")
    metrics.add_measurement("copied.human", float(np.mean(human_ratios)), "fraction", f"{fraction}: mean of held-out human pieces")
    description = f"{fraction}: 95th percentile of held-out human pieces"
    metrics.add_measurement("copied.human_p95", float(np.quantile(human_ratios, 0.95)), "fraction", description)


def record_greedy_repetition(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record how repetitive greedy generation from `bos` is."""
    bos = context.tokens.special_tokens["bos"]
    tokens = generate(context, [[bos]], GREEDY, NUM_GREEDY_TOKENS, torch.Generator())[0]
    runs = np.diff(np.flatnonzero(np.diff(np.array([-1, *tokens, -1])) != 0))
    metrics.add_measurement(
        "distinct_tokens", len(set(tokens)), "tokens", f"Distinct tokens among the first {NUM_GREEDY_TOKENS} of greedy generation"
    )
    metrics.add_measurement("longest_run", int(runs.max(initial=0)), "tokens", "Longest run of one token in greedy generation")


SPEC = ValidateSpec(MusicEvalConfig, make_probes)
