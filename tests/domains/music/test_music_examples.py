"""Test the examples of music: what is drawn, its files, and the measured audio."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.core.examples import write_examples
from provenlm.domains.music.content.score import note_table, read_score
from provenlm.domains.music.evaluate import controls, examples
from provenlm.domains.music.evaluate.config import ExampleConfig, LatentEvalConfig, MusicEvalConfig
from provenlm.domains.music.evaluate.render.audio import Audio
from provenlm.domains.music.evaluate.render.formats import FORMATS
from provenlm.domains.music.evaluate.render.wav import decode_pcm16
from provenlm.models.common.spec import LatentSample
from tests.domains.music.eval_contexts import TOKENIZER, vae_context
from tests.domains.music.planted_models import PIECES, collapsed, make_context, memoriser
from tests.domains.music.scores import make_record, make_score

EXAMPLES = ExampleConfig(num_pairs=2, num_samples=1, num_continuations=2, num_prompt_tokens=48, seconds=5)
CONFIG = MusicEvalConfig(num_sample_tokens=128, examples=EXAMPLES)


@pytest.fixture(scope="module")
def context():
    return make_context(memoriser())


def measure(name, context):
    recorder = MetricRecorder()
    examples.example_probes(CONFIG)[name].run(context, recorder)
    return recorder, {metric: value.value for metric, value in recorder.metrics.items()}


@pytest.fixture(scope="module")
def samples(context):
    return measure("samples", context)


def test_samples_come_as_blind_pairs_and_with_their_titles(samples):
    recorder, metrics = samples
    assert [(example.name, example.is_generated, example.pair) for example in recorder.examples] == [
        ("pair-1-generated", True, 1),
        ("pair-1-real", False, 1),
        ("pair-2-generated", True, 2),
        ("pair-2-real", False, 2),
        ("sample-3", True, 0),
        ("real-piece-3", False, 0),
    ]
    assert (metrics["generated"], metrics["real"], metrics["silent"]) == (3, 3, 0)


def test_the_files_of_an_example_hold_the_same_music(samples, tmp_path):
    recorder, metrics = samples
    sample = recorder.examples[4]
    notes = note_table(read_score(sample.files[".mid"]), 12)
    assert len(notes) and len(notes) == len(note_table(read_score(TOKENIZER.decode(PIECES[8][1:129])), 12))
    assert ElementTree.fromstring(sample.files[".svg"]).tag.endswith("svg")
    assert sample.files[".wav"][:4] == b"RIFF" and len(sample.files[".wav"]) < 6 * 11025
    assert metrics["loudness.min"] > 0.01 and metrics["onsets"] >= 0.95
    write_examples(tmp_path, recorder.examples)


def test_a_continuation_begins_with_its_prompt_and_the_real_piece_follows(context):
    recorder, metrics = measure("continuations", context)
    generated, real, *_ = recorder.examples
    assert (generated.is_generated, real.is_generated) == (True, False) and metrics["generated"] == 2
    first, second = (note_table(read_score(example.files[".mid"]), 12) for example in (generated, real))
    num_equal = int(np.cumprod(first.pitches[: len(second)] == second.pitches[: len(first)]).sum())
    assert num_equal >= 10
    assert b"stroke-dasharray" in generated.files[".svg"] and b"stroke-dasharray" not in real.files[".svg"]


def test_a_collapsed_model_is_caught_as_silent():
    _, metrics = measure("samples", make_context(collapsed()))
    assert metrics["silent"] == 3 and metrics["loudness.min"] == 0


def test_planted_audio_of_another_tempo_is_caught(context, monkeypatch):
    def slow(score, sample_rate):
        audio = render_audio(score, sample_rate)
        return Audio(np.repeat(audio.samples, 2), sample_rate, audio.synthesizer)

    render_audio = examples.render_audio
    monkeypatch.setattr(examples, "render_audio", slow)
    recorder, metrics = measure("continuations", context)
    assert metrics["onsets"] < examples.MIN_ONSET_RATIO
    assert examples.CHECKS["onsets"].expect == ">= 0.9" and len(recorder.examples) == 4


def test_short_pieces_cannot_be_continued(context):
    config = replace(CONFIG, examples=replace(EXAMPLES, num_prompt_tokens=10**6))
    with pytest.raises(ValueError, match="a held-out piece must have more than 1000000 tokens, got none"):
        examples.draw_continuations(context, config)


@pytest.fixture(scope="module")
def latent_pieces():
    """Draw the examples of a VAE with random weights."""
    config = replace(CONFIG, latents=LatentEvalConfig(num_reconstructions=4, max_new_tokens=24))
    return examples.draw_from_latents(vae_context(), config)


def test_reconstructions_follow_their_pieces_and_an_interpolation_goes_between_two(latent_pieces):
    assert [(piece.name, piece.is_generated) for piece in latent_pieces] == [
        ("reconstructed-1-real", False),
        ("reconstruction-1", True),
        ("reconstructed-2-real", False),
        ("reconstruction-2", True),
        *((f"interpolation-{number}", True) for number in range(1, 6)),
    ]
    assert [piece.title for piece in latent_pieces[4:]] == [f"{percent} % of the way" for percent in (0, 25, 50, 75, 100)]
    assert all(len(TOKENIZER.decode(piece.ids)) > 20 and len(piece.ids) <= 24 for piece in latent_pieces if piece.is_generated)
    assert len(note_table(read_score(TOKENIZER.decode(latent_pieces[0].ids)), 12)) > 8


def test_mixed_latents_lie_on_the_line_between_two_and_have_the_nearer_attributes():
    sample = LatentSample(torch.tensor([[[0.0, 4.0]], [[8.0, 0.0]]]), torch.tensor([[[1]], [[2]]]))
    mixed = controls.mix_latents(sample, [(0, 1, 0.25), (0, 1, 1.0)])
    assert mixed.latents_BNZ.tolist() == [[[2.0, 3.0]], [[8.0, 0.0]]]
    assert mixed.attributes_BNA.tolist() == [[[1]], [[2]]]


def test_samples_of_a_model_with_latents_are_examples_too():
    config = replace(CONFIG, num_sample_tokens=32, examples=replace(EXAMPLES, num_pairs=1))
    pieces = examples.draw_samples(vae_context(), config)
    assert [piece.name for piece in pieces] == ["pair-1-generated", "pair-1-real", "sample-2", "real-piece-2"]


def test_two_models_of_a_page_have_different_real_pieces(context):
    labels = [examples.page_label(replace(context, analytic_counts={"total": total}), "examples") for total in (10, 20)]
    assert labels == ["examples 10", "examples 20"]


def test_equal_seeds_give_equal_files(samples, context):
    again, _ = measure("samples", context)
    assert again.examples == samples[0].examples


def test_generated_content_is_written_as_midi_picture_and_audio():
    content = make_record(make_score([(0, 480, 60), (480, 480, 64)])).content
    assert FORMATS[".mid"](content) == content
    assert FORMATS[".svg"](content).startswith(b"<svg")
    audio, rate = decode_pcm16(FORMATS[".wav"](content))
    assert rate == 22050 and len(audio) > rate
