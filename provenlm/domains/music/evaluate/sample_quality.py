"""Record the quality of samples: grammar, musical metrics and originality.

Every value has a ceiling, real pieces against other real pieces, and a floor, tokens drawn from their frequencies.
"""

import numpy as np

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.ngram_hashing import Hashes
from provenlm.data.token_dataset import DatasetSplit
from provenlm.domains.music.content.musical_metrics import METRICS, STEPS_PER_QUARTER
from provenlm.domains.music.content.score import note_table, read_score
from provenlm.domains.music.evaluate.config import MusicEvalConfig
from provenlm.domains.music.evaluate.distributions import overlap_areas
from provenlm.domains.music.evaluate.grammar import grammar_errors
from provenlm.domains.music.evaluate.midi_validity import midi_error
from provenlm.domains.music.evaluate.originality import melody_hashes, shared_ratio
from provenlm.domains.music.evaluate.pieces import Pieces, Sequences, music_tokenizer, random_pieces, real_pieces
from provenlm.evaluation.probe import EvalContext

MIN_PIECES = 2  # to compare distributions


def record_grammar(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig, samples: Pieces) -> None:
    """Record the fraction of tokens that follow the grammar.

    It is recorded for samples, real pieces and random tokens.
    """
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
    errors = [error for ids in samples.sequences if (error := midi_error(tokenizer.decode(ids.tolist()))) is not None]
    description = f"Samples whose MIDI file breaks the specification of MIDI files: {errors[0] if errors else 'none'}"
    metrics.add_count("invalid_midi", len(errors), "pieces", description)


def record_musical_metrics(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig, samples: Pieces) -> None:
    """Record how much musical metrics overlap with those of held-out pieces."""
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
    """Record how much of a melody occurs in the training pieces.

    It is recorded for samples, and for held-out human pieces.
    """
    training_hashes = split_hashes(context, context.tokens.train)
    human_ratios = copy_ratios(real_pieces(context, context.tokens.val, config, "human pieces"), training_hashes)
    model_ratios = copy_ratios(samples, training_hashes)
    if not model_ratios or not human_ratios:
        raise ValueError("at least one sample and one held-out piece must have a melody of six notes, got none")
    fraction = "Fraction of six-note patterns of a melody (intervals and rhythm) that occur in training pieces"
    metrics.add_measurement("copied", float(np.mean(model_ratios)), "fraction", f"{fraction}: mean of samples")
    metrics.add_measurement("copied.max", float(np.max(model_ratios)), "fraction", f"{fraction}: largest of a sample")
    metrics.add_measurement("copied.human", float(np.mean(human_ratios)), "fraction", f"{fraction}: mean of held-out human pieces")
    description = f"{fraction}: 95th percentile of held-out human pieces"
    metrics.add_measurement("copied.human_p95", float(np.quantile(human_ratios, 0.95)), "fraction", description)


def split_hashes(context: EvalContext, split: DatasetSplit) -> Hashes:
    """Return the sorted hashes of the six-note patterns of all pieces of a split."""
    tokenizer = music_tokenizer(context)
    hashes: list[Hashes] = [
        melody_hashes(note_table(read_score(tokenizer.decode(split.ids[start:end].tolist())), STEPS_PER_QUARTER))
        for start, end in zip(split.doc_offsets[:-1], split.doc_offsets[1:], strict=True)
    ]
    return np.unique(np.concatenate(hashes))


def copy_ratios(pieces: Pieces, hashes: Hashes) -> list[float]:
    """Return the fraction of each piece's patterns that occur in `hashes`.

    Pieces without a melody of six notes are left out.
    """
    return [ratio for notes in pieces.notes if (ratio := shared_ratio(notes, hashes)) is not None]
