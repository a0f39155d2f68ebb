"""Test piano rolls, synthesizers and audio files of scores."""

import io
import shutil
import wave
from xml.etree import ElementTree

import numpy as np
import pytest
import symusic

from provenlm.core.errors import DataError
from provenlm.domains.music.evaluate.render.audio import (
    BUILT_IN,
    FLUIDSYNTH,
    SOUND_FONT_FOLDERS,
    find_sound_font,
    render_audio,
)
from provenlm.domains.music.evaluate.render.listening import onset_ratio, root_mean_square
from provenlm.domains.music.evaluate.render.piano_roll import bar_starts, piano_roll_svg
from provenlm.domains.music.evaluate.render.synthesizer import synthesize
from provenlm.domains.music.evaluate.render.timed_notes import cut_score, timed_notes
from provenlm.domains.music.evaluate.render.wav import decode_pcm16, encode_mu_law, encode_pcm16, mu_law_codes
from provenlm.domains.music.scrape.procedural import compose_piece
from tests.domains.music.scores import make_score

RATE = 11025
PIECE = cut_score(compose_piece(1), 8)
NOTES = timed_notes(PIECE)
SAMPLES = synthesize(NOTES, RATE)
HAS_FLUIDSYNTH = shutil.which("fluidsynth") is not None and find_sound_font(SOUND_FONT_FOLDERS) is not None


def test_times_follow_every_tempo_change():
    score = make_score([(0, 480, 60), (960, 480, 62), (1920, 480, 64)])
    score.tempos.extend([symusic.Tempo(0, 60), symusic.Tempo(960, 240)])
    notes = timed_notes(score)
    assert notes.onset_seconds.tolist() == [0, 2, 2.5]
    assert notes.duration_seconds.tolist() == [1, 0.25, 0.25]
    assert timed_notes(make_score([(480, 480, 60)])).onset_seconds.tolist() == [0.5]


def test_times_agree_with_symusic():
    seconds = PIECE.to(symusic.TimeUnit.second)
    expected = sorted((note.time, note.pitch) for track in seconds.tracks for note in track.notes)
    np.testing.assert_allclose(list(zip(NOTES.onset_seconds, NOTES.pitches, strict=True)), expected, atol=1e-4)


def test_drums_make_no_sound():
    score = make_score([(0, 480, 36)])
    score.tracks[0].is_drum = True
    assert len(timed_notes(score)) == 0 and root_mean_square(render_audio(score, RATE).samples) == 0


def test_a_cut_score_ends_at_the_time():
    score = make_score([(0, 2000, 60), (480, 480, 62), (960, 480, 64)])
    notes = timed_notes(cut_score(score, 0.75))
    assert notes.pitches.tolist() == [60, 62] and notes.end_seconds == pytest.approx(0.75)
    assert timed_notes(score).end_seconds > 2


def test_the_spectrum_has_a_peak_at_the_frequency_of_the_note():
    samples = synthesize(timed_notes(make_score([(0, 960, 69)])), RATE)
    spectrum = np.abs(np.fft.rfft(samples[:RATE]))
    assert np.argmax(spectrum) * RATE / len(samples[:RATE]) == pytest.approx(440, abs=2)


def test_onsets_are_heard_where_the_notes_are():
    assert root_mean_square(SAMPLES) > 0.05 and np.abs(SAMPLES).max() == pytest.approx(0.8)
    assert onset_ratio(SAMPLES, RATE, NOTES) >= 0.95


@pytest.mark.parametrize(
    "samples", [np.roll(SAMPLES, RATE // 4), np.zeros_like(SAMPLES), SAMPLES[::-1], SAMPLES[: len(SAMPLES) // 2]]
)
def test_planted_wrong_audio_is_heard(samples):
    assert onset_ratio(samples, RATE, NOTES) < 0.6


def test_silence_lies_between_the_notes():
    samples = synthesize(timed_notes(make_score([(0, 240, 60), (1920, 240, 60)])), RATE)
    assert root_mean_square(samples[RATE // 2 : RATE * 2 - 10]) == 0
    assert root_mean_square(samples[: RATE // 4]) > 0.1 and root_mean_square(samples[RATE * 2 :]) > 0.01


def test_equal_notes_give_equal_samples_and_no_notes_silence():
    assert np.array_equal(SAMPLES, synthesize(NOTES, RATE))
    assert root_mean_square(synthesize(timed_notes(symusic.Score(480)), RATE)) == 0
    with pytest.raises(ValueError, match="notes must be at least one, got none"):
        onset_ratio(SAMPLES, RATE, timed_notes(symusic.Score(480)))


def test_a_pcm_file_round_trips_and_another_file_is_an_error():
    content = encode_pcm16(SAMPLES, RATE)
    samples, rate = decode_pcm16(content)
    assert rate == RATE and np.abs(samples - SAMPLES).max() < 1e-4
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getnframes()) == (1, 2, len(SAMPLES))
    with pytest.raises(DataError, match="audio must be a 16-bit WAV file, got 3 bytes"):
        decode_pcm16(b"abc")


def test_mu_law_codes_are_those_of_g_711():
    """The reference expands codes by table 2a of the standard; a code must be the nearest one, or its neighbour."""
    assert mu_law_codes(np.array([0, 32767, -32768], np.int16)).tolist() == [0xFF, 0x80, 0x00]
    inverted = ~np.arange(256)
    magnitude = (((inverted & 0x0F) << 3) + 132 << ((inverted >> 4) & 7)) - 132
    table = np.where(inverted & 0x80, -magnitude, magnitude)
    values = np.arange(-32768, 32768).astype(np.int16)
    error = np.abs(table[mu_law_codes(values)] - np.clip(values.astype(int), -32635, 32635))
    assert (error <= 4 + np.abs(values.astype(int)) / 16).all()


def test_a_mu_law_file_has_a_valid_header_and_half_the_size():
    content = encode_mu_law(SAMPLES[:1001], RATE)
    assert content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") == len(content) - 8
    assert len(content) % 2 == 0 and content[-1002:-1] == mu_law_codes(np.rint(SAMPLES[:1001] * 32767).astype(np.int16)).tobytes()
    assert len(encode_mu_law(SAMPLES, RATE)) < 0.51 * len(encode_pcm16(SAMPLES, RATE))


def test_the_built_in_synthesizer_plays_without_fluidsynth(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    audio = render_audio(PIECE, RATE)
    assert audio.synthesizer == BUILT_IN and np.array_equal(audio.samples, SAMPLES)


@pytest.mark.skipif(not HAS_FLUIDSYNTH, reason="FluidSynth and a sound font are not installed")
def test_fluidsynth_plays_the_notes_where_it_is_installed():
    score = make_score([(480 * beat, 400, 60 + 2 * beat) for beat in range(8)])
    audio = render_audio(score, RATE)
    assert audio.synthesizer == FLUIDSYNTH
    assert root_mean_square(audio.samples) > 0 and onset_ratio(audio.samples, RATE, timed_notes(score)) >= 0.75


def test_a_failing_fluidsynth_is_an_error_with_its_message(monkeypatch, tmp_path):
    program, fonts = tmp_path / "fluidsynth", tmp_path / "fonts"
    program.write_text("#!/bin/sh\necho no such font >&2\nexit 3\n")
    program.chmod(0o755)
    fonts.mkdir()
    (fonts / "a.sf2").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("provenlm.domains.music.evaluate.render.audio.SOUND_FONT_FOLDERS", (str(fonts),))
    with pytest.raises(DataError, match="fluidsynth: must exit with 0 and write audio, got 3: no such font"):
        render_audio(PIECE, RATE)


def test_the_default_sound_font_comes_first(tmp_path):
    for name in ("a.sf2", "default-GM.sf3", "notes.txt"):
        (tmp_path / name).touch()
    folder = find_sound_font((str(tmp_path / "missing"), str(tmp_path)))
    assert folder is not None and folder.name == "default-GM.sf3"
    assert find_sound_font((str(tmp_path / "missing"),)) is None


def test_bars_follow_the_time_signatures():
    score = make_score([(0, 480, 60)])
    assert bar_starts(score, 9) == [0, 4, 8]
    score.time_signatures.extend([symusic.TimeSignature(0, 3, 4), symusic.TimeSignature(480 * 6, 6, 8)])
    assert bar_starts(score, 10) == [0, 3, 6, 9]
    score.time_signatures[1] = symusic.TimeSignature(480 * 6, 2, 4)
    assert bar_starts(score, 10) == [0, 3, 6, 8, 10]


def test_a_piano_roll_draws_each_note_at_its_pitch_and_time():
    page = piano_roll_svg(make_score([(0, 480, 60), (480, 480, 72)])).decode()
    (strokes,) = (line for line in page.splitlines() if "#1f6feb" in line)
    first, second = (stroke.split("h")[0].split() for stroke in strokes.split('"')[1][1:].split("M"))
    assert float(second[0]) - float(first[0]) == pytest.approx((620 - 30) / 4, abs=0.1)
    assert float(first[1]) - float(second[1]) == 12 * 5
    assert ">C4<" in page and "<title>Piano roll of 2 notes</title>" in page


def test_a_prompt_is_drawn_in_another_colour():
    page = piano_roll_svg(make_score([(0, 480, 60), (960, 480, 62)]), prompt_quarters=1).decode()
    assert page.count('stroke="#8c959f"') == page.count('stroke="#1f6feb"') == page.count("stroke-dasharray") == 1


def test_a_score_without_notes_says_so():
    assert ">no notes<" in piano_roll_svg(symusic.Score(480)).decode()


def test_a_piano_roll_is_well_formed_xml():
    assert ElementTree.fromstring(piano_roll_svg(PIECE, 3.0)).tag.endswith("svg")
