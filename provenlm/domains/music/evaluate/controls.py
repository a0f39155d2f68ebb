"""Measure what latents and attributes control.

That is reconstructions, interpolations, and how far requests are met.
Two passages are compared by their chroma: the time that each of the twelve pitch classes sounds.

Shapes: B sequences, N latents of a sequence, Z latent size, A attributes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenlm.core import rng
from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.domains.music.content.musical_metrics import STEPS_PER_QUARTER
from provenlm.domains.music.content.score import NoteTable, note_table, read_score
from provenlm.domains.music.evaluate.config import LatentEvalConfig
from provenlm.domains.music.evaluate.pieces import decode_latents, latent_stream, music_tokenizer
from provenlm.domains.music.tokenize.bar_batches import ATTRIBUTES, NUM_ATTRIBUTE_CLASSES, classify_attributes, measure_bars
from provenlm.evaluation.arrays import FloatArray, IntArray
from provenlm.evaluation.probe import EvalContext
from provenlm.models.common.spec import LatentSample
from provenlm.models.generation.sampling import SamplingConfig

SAMPLING = SamplingConfig(temperature=0.8, top_k=0, top_p=0.95, repetition_penalty=1.0)


def record_reconstruction(context: EvalContext, metrics: MetricRecorder, config: LatentEvalConfig, batch: Any) -> None:
    """Record how like its piece a reconstruction is.

    It is generated from the latents of the piece alone; one without notes has the similarity 0.
    """
    sample, counts = encode(context, batch)
    outputs = generate_bars(context, sample, counts, config.max_new_tokens, "reconstruction")
    originals = [chroma(notes) for notes in read_notes(context, sequences_of(batch))]
    copies = [chroma(notes) for notes in read_notes(context, outputs)]
    pairs = [(original, copy) for original, copy in zip(originals, copies, strict=True) if original.any()]
    if len(pairs) < 2:
        raise ValueError(f"at least 2 held-out sequences must have notes, got {len(pairs)}")
    matched = [cosine(original, copy) for original, copy in pairs]
    shuffled = [cosine(pairs[index][0], pairs[index - 1][1]) for index in range(len(pairs))]
    metrics.add_count("sequences", len(pairs), "sequences", "Held-out sequences that were generated again from their latents")
    similarity = "Mean cosine similarity of the chroma of a held-out sequence with"
    metrics.add_measurement(
        "chroma", float(np.mean(matched)), "", f"{similarity} its own reconstruction, generated without its tokens"
    )
    metrics.add_measurement("chroma.shuffled", float(np.mean(shuffled)), "", f"{similarity} the reconstruction of another sequence")
    start = latent_stream(context).start
    agreements = [token_agreement(ids, output, start) for ids, output in zip(sequences_of(batch), outputs, strict=True)]
    description = "Tokens at which reconstruction and piece are equal, up to the end of the shorter one"
    metrics.add_measurement("token_agreement", float(np.mean(agreements)), "fraction", description)


def token_agreement(piece: Sequence[int], output: Sequence[int], start: int) -> float:
    """Return the fraction of equal tokens up to the end of the shorter sequence.

    A held-out sequence may begin with the token `start`, which a generated one never contains. The fraction of no token is 0.
    """
    tokens = piece[1:] if piece and piece[0] == start else piece
    equal = [first == second for first, second in zip(tokens, output, strict=False)]
    return sum(equal) / len(equal) if equal else 0.0


def record_interpolation(context: EvalContext, metrics: MetricRecorder, config: LatentEvalConfig, batch: Any) -> None:
    """Record whether interpolations move from one piece to another.

    They are generated from latents between those of the two pieces.
    """
    sample, counts = encode(context, batch)
    originals = [chroma(notes) for notes in read_notes(context, sequences_of(batch))]
    pairs = choose_pairs(originals, config.num_pairs)
    fractions = np.linspace(0, 1, config.num_points)
    mixed = mix_latents(sample, [(first, second, fraction) for first, second in pairs for fraction in fractions.tolist()])
    row_counts = [min(counts[first], counts[second]) for first, second in pairs for _ in fractions]
    outputs = generate_bars(context, mixed, row_counts, config.max_new_tokens, "interpolation")
    generated = [chroma(notes) for notes in read_notes(context, outputs)]
    towards: dict[str, list[FloatArray]] = {"first piece": [], "second piece": []}
    for number, (first, second) in enumerate(pairs):
        points = generated[number * len(fractions) : (number + 1) * len(fractions)]
        for name, end in (("first piece", first), ("second piece", second)):
            towards[name].append(np.array([cosine(originals[end], point) for point in points]))
    ranks = [
        rank_correlation(fractions, second - first)
        for first, second in zip(towards["first piece"], towards["second piece"], strict=True)
    ]
    metrics.add_count("pairs", len(pairs), "pairs", "Pairs of held-out sequences between which latents were interpolated")
    description = (
        "Rank correlation, mean over pairs, of the position between two latents and how much more like the second piece it is"
    )
    metrics.add_measurement("monotonicity", float(np.mean(ranks)), "", description)
    lines = {name: np.mean(values, 0).round(4).tolist() for name, values in towards.items()}
    description = "Mean similarity of the chroma with both ends of an interpolation"
    metrics.series.append(
        PlotSeries("similarity", "line", description, "position between the latents", "cosine", fractions.tolist(), lines)
    )


def record_conditioning(context: EvalContext, metrics: MetricRecorder, config: LatentEvalConfig, batch: Any) -> None:
    """Record how far requests for an attribute are met.

    That is the correlation of the class that was asked for with the class of the bars that came.
    """
    assert context.latent is not None
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "conditioning"))
    rows: list[tuple[str, int, int, float | str]] = []
    correlations = []
    for index, name in enumerate(ATTRIBUTES):
        classes = range(1, NUM_ATTRIBUTE_CLASSES[index])  # class 0 is a bar without notes
        base_BNA = batch.attributes_BNA[: config.num_requests]
        requested_B = torch.tensor(classes).repeat_interleave(len(base_BNA))
        request_BNA = base_BNA.repeat(len(classes), 1, 1)
        request_BNA[..., index] = requested_B[:, None].to(request_BNA)
        with torch.inference_mode():
            sample = context.latent.prior(context.model, len(request_BNA), request_BNA.shape[1], generator, request_BNA)
        outputs = decode_latents(context, sample._replace(attributes_BNA=request_BNA), SAMPLING, config.max_new_tokens, generator)
        classes_of_outputs = [bar_classes(context, ids)[:, index] for ids in outputs]
        requested = np.repeat(requested_B.numpy(), list(map(len, classes_of_outputs)))
        generated = np.concatenate(classes_of_outputs)
        correlation = _correlation(requested.astype(np.float64), generated.astype(np.float64))
        correlations.append(correlation)
        description = f"Correlation of the class of {name} that was asked for with the class of the bars that came"
        metrics.add_measurement(f"correlation.{name}", correlation, "", description)
        for attribute_class in classes:
            bars = generated[requested == attribute_class]
            rows.append((name, attribute_class, len(bars), round(float(bars.mean()), 3) if len(bars) else ""))
    metrics.add_measurement("correlation.min", min(correlations), "", "Smallest of these correlations over the attributes")
    description = "Classes of an attribute that were asked for, and the mean class of the bars that came"
    metrics.tables.append(AuditTable("requests", description, ("attribute", "asked", "bars", "mean class"), rows))


def bar_classes(context: EvalContext, ids: Sequence[int]) -> IntArray:
    """Return the attribute classes of each whole bar of generated ids.

    The last bar may be cut and is left out.
    """
    classes = music_tokenizer(context).token_classes
    table = measure_bars(np.array(ids, np.int64), classes)
    return classify_attributes(table.values_GA)[1:-1]


@torch.inference_mode()
def encode(context: EvalContext, batch: Any) -> tuple[LatentSample, list[int]]:
    """Return the posterior means of a batch with its attributes.

    Also returns the number of latents of each sequence.
    """
    assert context.latent is not None
    posterior = context.latent.posterior(context.model, batch)
    counts: list[int] = posterior.is_latent_BN.sum(1).tolist()
    return LatentSample(posterior.mean_BNZ, getattr(batch, "attributes_BNA", None)), counts


def mix_latents(sample: LatentSample, points: Sequence[tuple[int, int, float]]) -> LatentSample:
    """Return latents between rows of a sample, one row for each point.

    A point is (first row, second row, fraction of the way). The attributes are those of the nearer row.
    """
    rows = [torch.lerp(sample.latents_BNZ[first], sample.latents_BNZ[second], fraction) for first, second, fraction in points]
    nearer = [second if fraction > 0.5 else first for first, second, fraction in points]
    return LatentSample(torch.stack(rows), None if sample.attributes_BNA is None else sample.attributes_BNA[nearer])


def generate_bars(
    context: EvalContext, sample: LatentSample, counts: Sequence[int], max_new_tokens: int, label: str
) -> list[list[int]]:
    """Generate from each row of latents, cut after the first `counts` bars of the row."""
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, label))
    outputs = decode_latents(context, sample, SAMPLING, max_new_tokens, generator)
    stream = latent_stream(context)
    lengths = [sum(number < count for number in stream.latent_numbers(ids)) for ids, count in zip(outputs, counts, strict=True)]
    return [ids[:length] for ids, length in zip(outputs, lengths, strict=True)]


def sequences_of(batch: Any) -> list[list[int]]:
    """Return the token ids of every sequence of a batch, without padding."""
    lengths: Tensor = (batch.targets_BT >= 0).sum(1)
    return [
        [*inputs_T[:length].tolist(), int(targets_T[length - 1])]
        for inputs_T, targets_T, length in zip(batch.inputs_BT, batch.targets_BT, lengths.tolist(), strict=True)
        if length
    ]


def read_notes(context: EvalContext, sequences: Sequence[Sequence[int]]) -> list[NoteTable]:
    """Decode sequences of ids to notes."""
    tokenizer = music_tokenizer(context)
    return [note_table(read_score(tokenizer.decode(ids)), STEPS_PER_QUARTER) for ids in sequences]


def chroma(notes: NoteTable) -> FloatArray:
    """Return how many steps each pitch class sounds, (12,); zeros without notes."""
    return np.bincount(notes.pitches % 12, weights=notes.durations, minlength=12).astype(np.float64)


def cosine(first: FloatArray, second: FloatArray) -> float:
    """Return the cosine similarity of two vectors; 0 if one of them is zero."""
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0


def choose_pairs(vectors: Sequence[FloatArray], num_pairs: int) -> list[tuple[int, int]]:
    """Return pairs of the least similar vectors.

    Each vector is in one pair at most; zero vectors are left out. ValueError for fewer than two vectors.
    """
    usable = [index for index, vector in enumerate(vectors) if vector.any()]
    candidates = sorted((cosine(vectors[a], vectors[b]), a, b) for a in usable for b in usable if a < b)
    pairs: list[tuple[int, int]] = []
    for _, first, second in candidates:
        if len(pairs) < num_pairs and not {first, second} & {index for pair in pairs for index in pair}:
            pairs.append((first, second))
    if not pairs:
        raise ValueError(f"at least 2 held-out sequences must have notes, got {len(usable)}")
    return pairs


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Return the rank correlation of Spearman (1904); 0 if one of both is constant."""
    return _correlation(_ranks(first), _ranks(second))


def _ranks(values: FloatArray) -> FloatArray:
    """Return the rank of each value; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[inverse]
    return ranks


def _correlation(first: FloatArray, second: FloatArray) -> float:
    """Return Pearson's correlation; 0 if one of both is constant or empty."""
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
