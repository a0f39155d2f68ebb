"""Encode scores with the tokenizers of MidiTok (Fradet et al. 2021).

A piece is one stream of tokens.

Notes of all tracks but drums are quantised to a grid and merged; special tokens are "pad", "bos" and "eos". Vocabulary and token
classes are read from the tokenizer of MidiTok.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import symusic
from numpy.typing import NDArray

from provenlm.core import io
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.records import Record
from provenlm.domains.music.content.score import read_score, write_score
from provenlm.domains.music.tokenize.compound_tokens import CompoundCodec, class_of
from provenlm.domains.music.tokenize.quantisation import (
    STEPS_PER_QUARTER,
    TIME_SIGNATURES,
    MidiTokenizerConfig,
    quantise_notes,
    quantise_time_signatures,
)

TOKENIZER_TYPE = "miditok"
SPECIAL_TOKENS = {"pad": "PAD_None", "bos": "BOS_None", "eos": "EOS_None"}
VELOCITY = 80  # of notes without a velocity token

COMPOUND_SCHEMES = ("Octuple", "CPWord")


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
            **({"max_bar_embedding": config.max_bars} if config.scheme == "Octuple" else {}),  # REMI would number its bars, too
        )
    )


class MidiTokenizer:
    """Map scores to the tokens of MidiTok and back."""

    def __init__(self, config: MidiTokenizerConfig) -> None:
        self.config = config
        self._miditok = make_miditok(config)
        self._codec: CompoundCodec | None = None
        if config.scheme in COMPOUND_SCHEMES:
            self._codec = CompoundCodec.create(self._miditok.vocab, tuple(SPECIAL_TOKENS.values()))
            self._vocab: Mapping[str, int] = {token: token_id for token_id, token in enumerate(self._codec.tokens)}
        else:
            self._vocab = self._miditok.vocab
        self.tokens: Mapping[int, str] = {token_id: token for token, token_id in self._vocab.items()}
        self.vocab_size = len(self.tokens)
        self.special_tokens: Mapping[str, int] = {name: self._vocab[token] for name, token in SPECIAL_TOKENS.items()}
        self._special_ids = frozenset(self.special_tokens.values())

    @property
    def token_classes(self) -> Mapping[str, NDArray[np.int64]]:
        """Return the ids of each class of tokens, such as Pitch or Duration.

        They are in the order of the vocabulary.
        """
        classes: dict[str, list[int]] = {}
        for token_id, token in sorted(self.tokens.items()):
            classes.setdefault(class_of(token), []).append(token_id)
        return {name: np.array(ids, np.int64) for name, ids in classes.items()}

    @property
    def successors(self) -> Mapping[str, frozenset[str]]:
        """Return the classes of tokens that may follow each class.

        MidiTok or the order of compounds defines them.
        """
        if self._codec is not None:
            return self._codec.successors
        return {name: frozenset(classes) for name, classes in self._miditok.tokens_types_graph.items()}

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Encode the score of each record, without special tokens."""
        return [self.encode_content(record.content) for record in records]

    def encode_content(self, content: bytes) -> NDArray[np.uint32]:
        """Encode a canonical MIDI file. Raises DataError if it is damaged."""
        sequences = self._miditok.encode(self.quantise(read_score(content)))
        streams = sequences if isinstance(sequences, list) else [sequences]
        ids = streams[0].ids if streams else []
        return np.array(ids if self._codec is None else self._codec.flatten(ids), np.uint32)

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode ids to a canonical MIDI file.

        Special tokens are skipped, and so are tokens that form no note.
        """
        content_ids = [int(token_id) for token_id in ids if int(token_id) not in self._special_ids]
        stream = content_ids if self._codec is None else self._codec.unflatten(content_ids)
        if not stream:
            return write_score(symusic.Score(STEPS_PER_QUARTER))
        decoded = self._miditok.decode(stream if self._has_one_stream else [stream])
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
        """Return the names of tokens between spaces, as `encode_prompt` reads them.

        Special tokens are skipped.
        """
        return " ".join(self.tokens[int(token_id)] for token_id in ids if int(token_id) not in self._special_ids)

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        """Return 0: what the tokens cannot express is quantised or dropped."""
        return 0

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt after `bos`.

        It is the path of a MIDI file (.mid), or names of tokens between spaces.

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
            return [bos, *(self._vocab[token] for token in text.split())]
        except KeyError as error:
            raise DataError(f"prompt must be a MIDI file or tokens such as Bar_None, got {error.args[0]!r}") from None

    def save(self, folder: Path) -> None:
        """Write `metadata.json` to `folder`, with the vocabulary for reference."""
        io.write_json(folder / "metadata.json", {"type": TOKENIZER_TYPE, **asdict(self.config), "vocabulary": self._vocabulary()})

    def canonical(self, content: bytes) -> bytes:
        """Return what of a score the tokens preserve.

        That is notes on the grid, with programs where there are such tokens.
        """
        notes = quantise_notes(read_score(content), self.config)
        columns = [notes.onsets, notes.pitches, notes.durations]
        if self.config.programs:
            columns.append(notes.programs)
        return np.stack(columns).tobytes()

    def quantise(self, score: symusic.Score) -> symusic.Score:
        """Return the score on the grid that is encoded.

        It has one track, or one for each program, and supported time signatures.
        """
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


def load_midi_tokenizer(folder: Path) -> MidiTokenizer:
    """Load a saved tokenizer.

    Raises DataError if its file is missing, damaged or of another vocabulary.
    """
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
