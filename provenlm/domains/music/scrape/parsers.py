"""Parse MIDI, ABC and MusicXML into scores, within limits.

This runs in worker processes, because parsers in C may crash or hang.
"""

import io
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import symusic

from provenlm.domains.music.content.score import SYMUSIC_ERRORS, TICKS_PER_QUARTER, read_score, write_score

MIDI, ABC, MUSICXML, COMPRESSED_MUSICXML, KERN = (
    "audio/midi", "text/vnd.abc", "application/vnd.recordare.musicxml+xml", "application/vnd.recordare.musicxml", "text/x-kern",
)  # fmt: skip
MEDIA_TYPES = {
    ".mid": MIDI, ".midi": MIDI, ".kar": MIDI, ".rmi": MIDI, ".abc": ABC, ".mxl": COMPRESSED_MUSICXML, ".musicxml": MUSICXML,
    ".xml": MUSICXML, ".krn": KERN,
}  # fmt: skip
VELOCITY = 80  # of notes of scores, which have none
MAX_UNPACKED_BYTES = 32_000_000  # of a compressed MusicXML file


class RefusalError(Exception):
    """Say why a file is no record: `reason`, and whether it is damaged."""

    def __init__(self, reason: str, failed: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.failed = reason, failed


@dataclass(frozen=True)
class ParseLimits:
    """Limit the size of a score."""

    max_notes: int = 100_000
    max_quarters: int = 20_000
    max_polyphony: int = 128  # notes at one onset


def parse_file(content: bytes, media_type: str, limits: ParseLimits) -> tuple[bytes, dict[str, Any]]:
    """Return the canonical MIDI file of a score and its metadata. Raises RefusalError."""
    if media_type == MIDI:
        score, metadata = _parse_midi(content), dict[str, Any]()
    elif media_type == ABC:
        score, metadata = _parse_abc(content)
    elif media_type in (MUSICXML, COMPRESSED_MUSICXML, KERN):
        score, metadata = _parse_music21(content, media_type)
    else:
        raise RefusalError("media-type")
    _check_limits(score, limits)
    canonical = write_score(score)
    metadata["num_notes"] = read_score(canonical).note_num()
    return canonical, metadata


def _check_limits(score: symusic.Score, limits: ParseLimits) -> None:
    num_notes = score.note_num()
    if num_notes == 0:
        raise RefusalError("no-notes")
    if num_notes > limits.max_notes:
        raise RefusalError("too-many-notes")
    if score.end() > limits.max_quarters * score.tpq:
        raise RefusalError("too-long")
    counts: dict[int, int] = {}
    for track in score.tracks:
        for time in track.notes.numpy()["time"].tolist():
            counts[time] = counts.get(time, 0) + 1
    if max(counts.values()) > limits.max_polyphony:
        raise RefusalError("too-many-notes-at-once")


def _parse_midi(content: bytes) -> symusic.Score:
    content = check_midi(content)
    try:
        return symusic.Score.from_midi(content)
    except SYMUSIC_ERRORS:
        raise RefusalError("midi-damaged", failed=True) from None


def check_midi(content: bytes) -> bytes:
    """Check header and chunk lengths and return the file without a RIFF container.

    Raises RefusalError.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"RMID":
        start = content.find(b"MThd", 12, 4096)
        if start < 0:
            raise RefusalError("riff-without-midi", failed=True)
        content = content[start:]
    if content[:4] != b"MThd" or len(content) < 14:
        raise RefusalError("no-midi")
    header_size, file_format, num_tracks, division = (
        int.from_bytes(content[start:end], "big") for start, end in ((4, 8), (8, 10), (10, 12), (12, 14))
    )
    if file_format == 2:
        raise RefusalError("midi-format-2")
    if file_format > 2 or header_size < 6 or num_tracks == 0:
        raise RefusalError("midi-damaged", failed=True)
    if division & 0x8000 or division == 0:
        raise RefusalError("midi-without-beats")
    position, tracks = 8 + header_size, 0
    while tracks < num_tracks:
        name, size = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8], "big")
        if len(name) < 4 or position + 8 + size > len(content):
            raise RefusalError("midi-truncated", failed=True)
        tracks += name == b"MTrk"
        position += 8 + size
    return content[:position]


def _parse_abc(content: bytes) -> tuple[symusic.Score, dict[str, Any]]:
    text = content.decode("utf-8", "replace")
    try:
        score = symusic.Score.from_abc(text)
    except SYMUSIC_ERRORS:
        raise RefusalError("abc-damaged", failed=True) from None
    titles = [line[2:].strip() for line in text.splitlines() if line.startswith("T:")]
    return score, {"title": titles[0]} if titles else {}


def _parse_music21(content: bytes, media_type: str) -> tuple[symusic.Score, dict[str, Any]]:
    try:
        from music21 import converter
    except ImportError:
        raise RefusalError("score-needs-extra") from None  # pip install -e .[music]
    if media_type == COMPRESSED_MUSICXML:
        _check_archive(content)
    suffix = {MUSICXML: ".musicxml", COMPRESSED_MUSICXML: ".mxl", KERN: ".krn"}[media_type]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"score{suffix}")
        path.write_bytes(content)
        try:
            parsed = converter.parse(str(path), forceSource=True, storePickle=False)
        except MemoryError:
            raise
        except Exception:  # music21 raises many kinds of exceptions for damaged files
            raise RefusalError("score-damaged", failed=True) from None
    score = to_symusic(parsed)
    title = str((parsed.metadata and (parsed.metadata.title or parsed.metadata.movementName)) or "").strip()
    return score, {"title": title} if title and not title.startswith("score.") else {}


def _check_archive(content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        raise RefusalError("score-damaged", failed=True) from None
    if size > MAX_UNPACKED_BYTES:
        raise RefusalError("too-large")


def to_symusic(parsed: Any) -> symusic.Score:
    """Convert a music21 score as it is written.

    Ties are merged, repeats are not expanded, grace notes and chord symbols are left out.
    """
    from music21 import chord, harmony, meter, note, tempo

    score = symusic.Score(TICKS_PER_QUARTER)
    signatures: set[tuple[int, int, int]] = set()
    tempos: set[tuple[int, float]] = set()
    for part in list(getattr(parsed, "parts", ())) or [parsed]:
        instrument = part.getInstrument(returnDefault=False)
        program = int(instrument.midiProgram) if instrument is not None and instrument.midiProgram is not None else 0
        track = symusic.Track(program=program)
        tied: dict[int, symusic.Note] = {}
        flat = part.flatten()
        for element in flat.notes:
            if isinstance(element, harmony.ChordSymbol) or element.duration.isGrace:
                continue
            onset, duration = round(float(element.offset) * score.tpq), round(float(element.quarterLength) * score.tpq)
            if duration <= 0:
                continue
            members = element.notes if isinstance(element, chord.Chord) else [element] if isinstance(element, note.Note) else []
            for member in members:
                pitch, tie = member.pitch.midi, member.tie or element.tie
                previous = tied.get(pitch)
                if tie is not None and tie.type in ("stop", "continue") and previous and previous.time + previous.duration == onset:
                    previous.duration += duration
                else:
                    track.notes.append(symusic.Note(onset, duration, pitch, VELOCITY))
                    tied[pitch] = track.notes[len(track.notes) - 1]
        score.tracks.append(track)
        signatures |= {
            (round(float(item.offset) * score.tpq), item.numerator, item.denominator)
            for item in flat.getElementsByClass(meter.TimeSignature)
        }
        tempos |= {
            (round(float(item.offset) * score.tpq), float(item.getQuarterBPM()))
            for item in flat.getElementsByClass(tempo.MetronomeMark)
            if item.getQuarterBPM()
        }
    score.time_signatures.extend([symusic.TimeSignature(*item) for item in sorted(signatures)])
    score.tempos.extend([symusic.Tempo(*item) for item in sorted(tempos)])
    return score
