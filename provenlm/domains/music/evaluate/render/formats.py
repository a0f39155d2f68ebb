"""Convert canonical MIDI files to the formats that people look at and play."""

from collections.abc import Callable, Mapping

from provenlm.domains.music.content.score import read_score
from provenlm.domains.music.evaluate.render.audio import render_audio
from provenlm.domains.music.evaluate.render.piano_roll import piano_roll_svg
from provenlm.domains.music.evaluate.render.wav import encode_pcm16

SAMPLE_RATE = 22050


def midi_file(content: bytes) -> bytes:
    """Return the MIDI file itself."""
    return content


def picture_file(content: bytes) -> bytes:
    """Return the piano roll of a MIDI file."""
    return piano_roll_svg(read_score(content))


def audio_file(content: bytes) -> bytes:
    """Return the sound of a MIDI file."""
    return encode_pcm16(render_audio(read_score(content), SAMPLE_RATE).samples, SAMPLE_RATE)


FORMATS: Mapping[str, Callable[[bytes], bytes]] = {".mid": midi_file, ".svg": picture_file, ".wav": audio_file}
