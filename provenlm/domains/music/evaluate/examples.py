"""Record examples of music to look at and to play.

Generated music comes beside real pieces, each as MIDI file, piano roll and audio. Examples are the first ones of the seed, not a selection. The audio is measured: it must not be silent, and must begin its notes where
the score has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder
from provenlm.core.examples import Example
from provenlm.domains.music.content.score import note_table, read_score
from provenlm.domains.music.evaluate.config import ExampleConfig, MusicEvalConfig
from provenlm.domains.music.evaluate.controls import (
    choose_pairs,
    chroma,
    encode,
    generate_bars,
    mix_latents,
    read_notes,
    sequences_of,
)
from provenlm.domains.music.evaluate.latents import LATENTS, validation_batch
from provenlm.domains.music.evaluate.pieces import music_tokenizer, real_pieces, sample_pieces
from provenlm.domains.music.evaluate.render.audio import Audio, render_audio
from provenlm.domains.music.evaluate.render.listening import onset_ratio, root_mean_square
from provenlm.domains.music.evaluate.render.piano_roll import STEPS_PER_QUARTER, piano_roll_svg
from provenlm.domains.music.evaluate.render.timed_notes import cut_score, timed_notes
from provenlm.domains.music.evaluate.render.wav import encode_mu_law
from provenlm.evaluation.generate import generate
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.generation.sampling import SamplingConfig

SAMPLE_RATE = 11025  # 11 kB a second, so that a page of examples stays small
MIN_ONSET_RATIO = 0.9
CHECKS = {
    "silent": Check("== 0", "a generated example has no note that sounds: train longer"),
    "onsets": Check(
        f">= {MIN_ONSET_RATIO}", "the audio does not play the notes of the score: its synthesizer or its tempo is wrong"
    ),
}


@dataclass(frozen=True)
class ExamplePiece:
    """Hold the ids of one example; the first `num_prompt_ids` are a prompt.

    The other fields are those of `Example`.
    """

    name: str
    group: str
    title: str
    is_generated: bool
    ids: Sequence[int]
    num_prompt_ids: int = 0
    pair: int = 0


@dataclass(frozen=True)
class RenderedPiece:
    """Hold an example, its audio, and the fraction of notes whose onset is heard.

    The fraction is None if the example has no notes.
    """

    example: Example
    audio: Audio
    onset_ratio: float | None


def example_probes(config: MusicEvalConfig) -> Mapping[str, Probe]:
    """Return the probes `samples`, `continuations` and `latent_examples`."""

    def samples(context: EvalContext, metrics: MetricRecorder) -> None:
        record_pieces(context, metrics, draw_samples(context, config), config.examples)

    def continuations(context: EvalContext, metrics: MetricRecorder) -> None:
        record_pieces(context, metrics, draw_continuations(context, config), config.examples)

    def latent_examples(context: EvalContext, metrics: MetricRecorder) -> None:
        record_pieces(context, metrics, draw_from_latents(context, config), config.examples)

    return {
        "samples": Probe(samples, frozenset({"music_samples"}), CHECKS),
        "continuations": Probe(continuations, frozenset({"next_token_logits", "validation_split"}), CHECKS),
        "latent_examples": Probe(latent_examples, LATENTS, CHECKS),
    }


def draw_samples(context: EvalContext, config: MusicEvalConfig) -> list[ExamplePiece]:
    """Draw blind pairs of a sample and a real piece, and some with their titles."""
    examples = config.examples
    sizes = replace(config, num_samples=max(2, examples.num_pairs + examples.num_samples))
    generated = [ids.tolist() for ids in sample_pieces(context, sizes).sequences]
    real = [
        ids.tolist() for ids in real_pieces(context, context.val_or_train_split, sizes, page_label(context, "examples")).sequences
    ]
    num_pairs = min(examples.num_pairs, len(real))
    pieces = []
    for number in range(1, num_pairs + 1):
        for is_generated, sequences in ((True, generated), (False, real)):
            title = f"{'sample' if is_generated else 'real piece'} {number}"
            name = f"pair-{number}-{'generated' if is_generated else 'real'}"
            pieces.append(ExamplePiece(name, "Blind pairs", title, is_generated, sequences[number - 1], pair=number))
    group = "Samples beside real pieces"
    for number in range(num_pairs + 1, num_pairs + 1 + examples.num_samples):
        pieces.append(ExamplePiece(f"sample-{number}", group, f"Sample {number}", True, generated[number - 1]))
        if number <= len(real):
            pieces.append(ExamplePiece(f"real-piece-{number}", group, f"Real piece {number}", False, real[number - 1]))
    return pieces


def draw_continuations(context: EvalContext, config: MusicEvalConfig) -> list[ExamplePiece]:
    """Continue held-out pieces; each real piece follows its continuation."""
    examples, group = config.examples, "Continuations of held-out pieces; the prompt is grey"
    sizes = replace(config, num_samples=max(2, examples.num_continuations))
    real = [ids.tolist() for ids in real_pieces(context, context.tokens.val, sizes, page_label(context, "continuations")).sequences]
    real = [ids for ids in real if len(ids) > examples.num_prompt_tokens][: examples.num_continuations]
    if not real:
        raise ValueError(f"a held-out piece must have more than {examples.num_prompt_tokens} tokens, got none")
    special = context.tokens.special_tokens
    beginning = [special["bos"]] if "bos" in special else []
    prompts = [[*beginning, *ids[: examples.num_prompt_tokens]] for ids in real]
    sampling = SamplingConfig(temperature=config.temperature, top_k=0, top_p=config.top_p, repetition_penalty=1.0)
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "continuations"))
    num_new_tokens = max(1, config.num_sample_tokens - examples.num_prompt_tokens)
    outputs = generate(context, prompts, sampling, num_new_tokens, generator)
    pieces = []
    for number, (prompt, output, ids) in enumerate(zip(prompts, outputs, real, strict=True), 1):
        title = f"Continuation {number}"
        pieces.append(ExamplePiece(f"continuation-{number}", group, title, True, [*prompt, *output], len(prompt)))
        pieces.append(ExamplePiece(f"continued-{number}-real", group, f"{title}: the piece itself", False, ids))
    return pieces


def draw_from_latents(context: EvalContext, config: MusicEvalConfig) -> list[ExamplePiece]:
    """Generate held-out sequences again from their latents, and between two."""
    examples = config.examples
    batch = validation_batch(context, config.latents)
    sample, counts = encode(context, batch)
    real = sequences_of(batch)
    first, second = choose_pairs([chroma(notes) for notes in read_notes(context, real)], 1)[0]
    indices = [first, second, *(index for index in range(len(real)) if index not in (first, second))][
        : examples.num_reconstructions
    ]
    fractions = np.linspace(0, 1, examples.num_points).tolist()
    mixed = mix_latents(
        sample, [*((index, index, 0.0) for index in indices), *((first, second, fraction) for fraction in fractions)]
    )
    row_counts = [*(counts[index] for index in indices), *[min(counts[first], counts[second])] * len(fractions)]
    outputs = generate_bars(context, mixed, row_counts, config.latents.max_new_tokens, "latent examples")
    pieces, group = [], "Reconstructions: each piece generated again from its latents alone"
    for number, (index, output) in enumerate(zip(indices, outputs, strict=False), 1):
        pieces.append(ExamplePiece(f"reconstructed-{number}-real", group, f"Piece {number}", False, real[index]))
        pieces.append(ExamplePiece(f"reconstruction-{number}", group, f"Reconstruction of piece {number}", True, output))
    group = "An interpolation between the latents of pieces 1 and 2"
    for number, (fraction, output) in enumerate(zip(fractions, outputs[len(indices) :], strict=True), 1):
        pieces.append(ExamplePiece(f"interpolation-{number}", group, f"{100 * fraction:.0f} % of the way", True, output))
    return pieces


def page_label(context: EvalContext, label: str) -> str:
    """Return a label for random draws that differs between models of a page.

    With one label, the real side of every blind pair would be the same piece for each model, and its listener would know it.
    """
    return f"{label} {context.analytic_counts.get('total', 0)}"


def record_pieces(context: EvalContext, metrics: MetricRecorder, pieces: Sequence[ExamplePiece], config: ExampleConfig) -> None:
    """Render pieces, add them to the examples, and measure their audio."""
    rendered = [render_piece(context, piece, config.seconds) for piece in pieces]
    metrics.examples.extend(piece.example for piece in rendered)
    generated = [piece for piece in rendered if piece.example.is_generated]
    ratios = [piece.onset_ratio for piece in rendered if piece.onset_ratio is not None]
    loudness = [root_mean_square(piece.audio.samples) for piece in rendered]
    metrics.add_count("generated", len(generated), "pieces", "Generated pieces that are shown and played on the page")
    metrics.add_count("real", len(rendered) - len(generated), "pieces", "Real pieces that are shown and played on the page")
    silent = sum(value == 0 for piece, value in zip(rendered, loudness, strict=True) if piece.example.is_generated)
    metrics.add_count("silent", silent, "pieces", "Generated pieces whose audio is silent")
    metrics.add_measurement("loudness.min", min(loudness), "", "Smallest root mean square of the audio of a piece; full scale is 1")
    if ratios:
        description = "Fraction of notes, mean over pieces, at whose onset the spectrum of the audio rises at the pitch of the note"
        metrics.add_measurement("onsets", float(np.mean(ratios)), "fraction", description)
    metrics.add_count("synthesizer", rendered[0].audio.synthesizer, "", "Synthesizer of the audio")


def render_piece(context: EvalContext, piece: ExamplePiece, seconds: float) -> RenderedPiece:
    """Return the MIDI file of a piece, and its first seconds as piano roll and audio."""
    tokenizer = music_tokenizer(context)
    content = tokenizer.decode(piece.ids)
    score = cut_score(read_score(content), seconds)
    prompt_quarters = 0.0
    if piece.num_prompt_ids:
        prompt = note_table(read_score(tokenizer.decode(piece.ids[: piece.num_prompt_ids])), STEPS_PER_QUARTER)
        prompt_quarters = (int(prompt.onsets.max(initial=-1)) + 1) / STEPS_PER_QUARTER
    audio, notes = render_audio(score, SAMPLE_RATE), timed_notes(score)
    files = {
        ".svg": piano_roll_svg(score, prompt_quarters),
        ".wav": encode_mu_law(audio.samples, SAMPLE_RATE),
        ".mid": content,
    }
    example = Example(piece.name, piece.group, piece.title, piece.is_generated, piece.pair, files)
    return RenderedPiece(example, audio, onset_ratio(audio.samples, SAMPLE_RATE, notes) if len(notes) else None)
