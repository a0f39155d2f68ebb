"""Play a score with FluidSynth or with the built-in synthesizer.

FluidSynth is used where it and a sound font are installed.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import symusic

from provenlm.core.errors import DataError
from provenlm.domains.music.content.score import write_score
from provenlm.domains.music.evaluate.render.synthesizer import Samples, normalize_peak, synthesize
from provenlm.domains.music.evaluate.render.timed_notes import timed_notes
from provenlm.domains.music.evaluate.render.wav import decode_pcm16

SOUND_FONT_FOLDERS = ("/usr/share/sounds/sf2", "/usr/share/sounds/sf3", "/usr/share/soundfonts", "/usr/local/share/soundfonts")
SOUND_FONT_SUFFIXES = (".sf2", ".sf3")
GAIN = 0.8
REVERB_SECONDS = 1.0  # kept after the last note
TIMEOUT_SECONDS = 300
FLUIDSYNTH, BUILT_IN = "FluidSynth", "built-in"


@dataclass(frozen=True)
class Audio:
    """Hold mono samples in [-1, 1], all of the same peak, and their synthesizer."""

    samples: Samples
    sample_rate: int
    synthesizer: str


def render_audio(score: symusic.Score, sample_rate: int) -> Audio:
    """Play a score. Raises DataError if FluidSynth is installed and fails."""
    program, sound_font = shutil.which("fluidsynth"), find_sound_font(SOUND_FONT_FOLDERS)
    if program is None or sound_font is None:
        return Audio(synthesize(timed_notes(score), sample_rate), sample_rate, BUILT_IN)
    samples = _run_fluidsynth(program, sound_font, write_score(score), sample_rate)
    num_samples = round((timed_notes(score).end_seconds + REVERB_SECONDS) * sample_rate)
    return Audio(normalize_peak(samples[:num_samples]), sample_rate, FLUIDSYNTH)


def find_sound_font(folders: tuple[str, ...]) -> Path | None:
    """Return a sound font of the first folder that has any.

    `default-GM` comes before all others, which are in alphabetic order.
    """
    for folder in map(Path, folders):
        files = sorted(path for path in folder.glob("*") if path.suffix in SOUND_FONT_SUFFIXES)
        if files:
            return min(files, key=lambda path: (path.stem != "default-GM", path.name))
    return None


def _run_fluidsynth(program: str, sound_font: Path, content: bytes, sample_rate: int) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        midi, audio = Path(folder) / "score.mid", Path(folder) / "score.wav"
        midi.write_bytes(content)
        options = ["-ni", "-q", "-g", str(GAIN), "-r", str(sample_rate), "-T", "wav", "-O", "s16", "-F", str(audio)]
        command = [program, *options, str(sound_font), str(midi)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(
                f"fluidsynth: must end within {TIMEOUT_SECONDS} s, got no end for {len(content)} bytes of MIDI"
            ) from None
        if result.returncode or not audio.is_file():
            raise DataError(
                f"fluidsynth: must exit with 0 and write audio, got {result.returncode}: {result.stderr.strip()[-200:]}"
            )
        return decode_pcm16(audio.read_bytes())[0]
