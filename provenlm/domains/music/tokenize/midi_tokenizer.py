"""Encode scores with the tokenizers of MidiTok (Fradet et al. 2021): one stream of tokens for a piece.

Notes of all tracks but drums are quantised to a grid and merged; special tokens are "pad", "bos" and "eos". Vocabulary and token
classes are read from the tokenizer of MidiTok.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import symusic
from numpy.typing import NDArray

from provenlm.core import io
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.records import Record
from provenlm.domains.music.content.score import NoteTable, cut_repeated, note_table, read_score, write_score

TOKENIZER_TYPE = "miditok"
STEPS_PER_QUARTER = 12  # 16th notes and triplets
MAX_DURATION_STEPS = 6 * STEPS_PER_QUARTER  # 12 beats of an eighth note
TIME_SIGNATURES = {4: [1, 2, 3, 4, 5, 6, 7, 8], 8: [1, 2, 3, 4, 5, 6, 7, 9, 12]}
DEFAULT_TIME_SIGNATURE = (4, 4)
SPECIAL_TOKENS = {"pad": "PAD_None", "bos": "BOS_None", "eos": "EOS_None"}
VELOCITY = 80  # of notes without a velocity token

Scheme = Literal["REMI", "TSD", "MIDILike"]


@dataclass(frozen=True)
class MidiTokenizerConfig:
    """Configure the tokens.

    scheme: REMI (Huang and Yang 2020), TSD or MIDILike (Oore et al. 2018). Octuple and CPWord give several ids for each step and do
        not fit a flat stream.
    lowest_pitch, highest_pitch: other notes are dropped. num_velocities, num_tempos: 0 for no such tokens.
    programs: encode the instrument of each note.
    """

    scheme: Scheme = "REMI"
    lowest_pitch: int = 21
    highest_pitch: int = 108
    num_velocities: int = 0
    num_tempos: int = 0
    programs: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.lowest_pitch < self.highest_pitch <= 127:
            raise ValueError(
                f"lowest_pitch must be >= 0 and < highest_pitch <= 127, got {self.lowest_pitch} and {self.highest_pitch}"
            )
        for name in ("num_velocities", "num_tempos"):
            if not 0 <= getattr(self, name) <= 127:
                raise ValueError(f"{name} must be from 0 to 127, got {getattr(self, name)}")


def make_miditok(config: MidiTokenizerConfig) -> Any:
    """Build the tokenizer of MidiTok. Raises ConfigError if MidiTok is not installed."""
    try:
        import miditok
    except ImportError:
        raise ConfigError("domain: music needs MidiTok: run `pip install -e '.[music]'`") from None
    return getattr(miditok, config.scheme)(
        miditok.TokenizerConfig(
            pitch_range=(config.lowest_pitch, config.highest_pitch),
            beat_res={(0, 12): STEPS_PER_QUARTER},
            num_velocities=max(1, config.num_velocities),
            use_velocities=config.num_velocities > 0,
            num_tempos=max(1, config.num_tempos),
            use_tempos=config.num_tempos > 0,
            use_programs=config.programs,
            use_time_signatures=True,
            time_signature_range=TIME_SIGNATURES,
            use_pitchdrum_tokens=False,
            remove_duplicated_notes=True,
            special_tokens=["PAD", "BOS", "EOS"],
        )
    )


class MidiTokenizer:
    """Map scores to the tokens of MidiTok and back."""

    def __init__(self, config: MidiTokenizerConfig) -> None:
        self.config = config
        self._miditok = make_miditok(config)
        self.tokens: Mapping[int, str] = {token_id: token for token, token_id in self._miditok.vocab.items()}
        self.vocab_size = len(self.tokens)
        self.special_tokens: Mapping[str, int] = {name: self._miditok.vocab[token] for name, token in SPECIAL_TOKENS.items()}
        self._special_ids = frozenset(self.special_tokens.values())

    @property
    def token_classes(self) -> Mapping[str, NDArray[np.int64]]:
        """Return the ids of each class of tokens, such as Pitch or Duration, in the order of the vocabulary."""
        classes: dict[str, list[int]] = {}
        for token_id, token in sorted(self.tokens.items()):
            classes.setdefault(token.split("_", 1)[0], []).append(token_id)
        return {name: np.array(ids, np.int64) for name, ids in classes.items()}

    @property
    def successors(self) -> Mapping[str, frozenset[str]]:
        """Return the classes of tokens that may follow each class, as MidiTok defines them."""
        return {name: frozenset(classes) for name, classes in self._miditok.tokens_types_graph.items()}

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Encode the score of each record, without special tokens."""
        return [self.encode_content(record.content) for record in records]

    def encode_content(self, content: bytes) -> NDArray[np.uint32]:
        """Encode a canonical MIDI file. Raises DataError if it is damaged."""
        sequences = self._miditok.encode(self.quantise(read_score(content)))
        streams = sequences if isinstance(sequences, list) else [sequences]
        return np.array(streams[0].ids if streams else [], np.uint32)

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode ids to a canonical MIDI file; special tokens are skipped, and so are tokens that form no note."""
        content_ids = [int(token_id) for token_id in ids if int(token_id) not in self._special_ids]
        decoded = self._miditok.decode(content_ids if self._has_one_stream else [content_ids])
        for track in decoded.tracks:
            for note in track.notes if self.config.num_velocities == 0 else ():
                note.velocity = VELOCITY
        if self.config.num_tempos == 0:
            decoded.tempos = symusic.Score(decoded.tpq).tempos
        return write_score(decoded)

    def decode_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the names of tokens, such as `Pitch_60`."""
        return [self.tokens[int(token_id)] for token_id in ids]

    def describe(self, ids: Sequence[int]) -> str:
        """Return the names of tokens between spaces, as `encode_prompt` reads them; special tokens are skipped."""
        return " ".join(self.tokens[int(token_id)] for token_id in ids if int(token_id) not in self._special_ids)

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        """Return 0: what the tokens cannot express is quantised or dropped."""
        return 0

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt after `bos`: the path of a MIDI file (.mid), or names of tokens between spaces.

        Raises DataError for an unknown token and for a file that cannot be read.
        """
        bos = self.special_tokens["bos"]
        if text.strip().endswith((".mid", ".midi")):
            try:
                content = Path(text.strip()).read_bytes()
            except OSError as error:
                raise DataError(f"prompt must be a readable MIDI file, got {text.strip()!r}: {error.strerror}") from None
            return [bos, *self.encode_content(content).tolist()]
        try:
            return [bos, *(self._miditok.vocab[token] for token in text.split())]
        except KeyError as error:
            raise DataError(f"prompt must be a MIDI file or tokens such as Bar_None, got {error.args[0]!r}") from None

    def save(self, folder: Path) -> None:
        """Write `metadata.json` to `folder`, with the vocabulary for reference."""
        io.write_json(folder / "metadata.json", {"type": TOKENIZER_TYPE, **asdict(self.config), "vocabulary": self._vocabulary()})

    def canonical(self, content: bytes) -> bytes:
        """Return what of a score the tokens preserve: notes on the grid, with velocity and program where there are such tokens."""
        notes = quantise_notes(read_score(content), self.config)
        columns = [notes.onsets, notes.pitches, notes.durations]
        if self.config.programs:
            columns.append(notes.programs)
        return np.stack(columns).tobytes()

    def quantise(self, score: symusic.Score) -> symusic.Score:
        """Return the score on the grid that is encoded: one track, or one for each program, and supported time signatures."""
        notes = quantise_notes(score, self.config)
        quantised = symusic.Score(STEPS_PER_QUARTER)
        programs = np.unique(notes.programs) if self.config.programs else [0]
        for program in programs:
            part = notes.select(notes.programs == program) if self.config.programs else notes
            track = symusic.Track(program=int(program))
            columns = (part.onsets, part.durations, part.pitches, part.velocities)
            types = (np.int32, np.int32, np.int8, np.int8)
            track.notes = symusic.Note.from_numpy(*(column.astype(kind) for column, kind in zip(columns, types, strict=True)))
            quantised.tracks.append(track)
        quantised.time_signatures.extend([symusic.TimeSignature(*signature) for signature in quantise_time_signatures(score)])
        if self.config.num_tempos:
            for tempo in score.tempos:
                quantised.tempos.append(symusic.Tempo(round(tempo.time * STEPS_PER_QUARTER / score.tpq), tempo.qpm))
        return quantised

    @property
    def _has_one_stream(self) -> bool:
        return bool(self._miditok.one_token_stream)

    def _vocabulary(self) -> list[str]:
        return [self.tokens[token_id] for token_id in range(self.vocab_size)]


def quantise_notes(score: symusic.Score, config: MidiTokenizerConfig) -> NoteTable:
    """Return the notes that are encoded: in the range, none longer than MAX_DURATION_STEPS, each pitch once at a time."""
    notes = note_table(score, STEPS_PER_QUARTER)
    notes = notes.select((notes.pitches >= config.lowest_pitch) & (notes.pitches <= config.highest_pitch))
    keys = notes.pitches + 128 * notes.programs if config.programs else notes.pitches
    durations = np.minimum(cut_repeated(notes.onsets, keys, notes.durations), MAX_DURATION_STEPS)
    programs = notes.programs if config.programs else np.zeros_like(notes.programs)
    columns = (notes.onsets, notes.pitches, durations, notes.velocities, programs)
    return NoteTable(*columns, STEPS_PER_QUARTER).select(durations > 0)


def quantise_time_signatures(score: symusic.Score) -> list[tuple[int, int, int]]:
    """Return (step, numerator, denominator) of supported time signatures of equal bar length, each at the start of a bar."""
    signatures: dict[int, tuple[int, int]] = {0: DEFAULT_TIME_SIGNATURE}
    start, bar_steps = 0, _bar_steps(DEFAULT_TIME_SIGNATURE)
    for signature in sorted(score.time_signatures, key=lambda item: item.time):
        supported = supported_time_signature(signature.numerator, signature.denominator)
        step = round(signature.time * STEPS_PER_QUARTER / score.tpq)
        start += -(-max(0, step - start) // bar_steps) * bar_steps
        signatures[start], bar_steps = supported, _bar_steps(supported)
    ordered = sorted(signatures.items())
    changes = [item for index, item in enumerate(ordered) if index == 0 or item[1] != ordered[index - 1][1]]
    return [(step, *signature) for step, signature in changes]


def supported_time_signature(numerator: int, denominator: int) -> tuple[int, int]:
    """Return a supported time signature with bars of the same length, else 4/4."""
    for target in (denominator, 4, 8):
        scaled = numerator * target
        if denominator > 0 and scaled % denominator == 0 and scaled // denominator in TIME_SIGNATURES.get(target, ()):
            return scaled // denominator, target
    return DEFAULT_TIME_SIGNATURE


def _bar_steps(signature: tuple[int, int]) -> int:
    return signature[0] * 4 * STEPS_PER_QUARTER // signature[1]


def load_midi_tokenizer(folder: Path) -> MidiTokenizer:
    """Load a saved tokenizer. Raises DataError if its file is missing, damaged or of another vocabulary."""
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        tokenizer_type, vocabulary = metadata.pop("type"), metadata.pop("vocabulary")
        if tokenizer_type != TOKENIZER_TYPE:
            raise ValueError(f"type must be {TOKENIZER_TYPE!r}, got {tokenizer_type!r}")
        tokenizer = MidiTokenizer(MidiTokenizerConfig(**metadata))
        if [tokenizer.tokens[token_id] for token_id in range(tokenizer.vocab_size)] != vocabulary:
            raise ValueError("vocabulary must be that of the installed MidiTok, got another one")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.as_posix()}: cannot load a MidiTok tokenizer: {error}; run tokenize again") from None
    return tokenizer
