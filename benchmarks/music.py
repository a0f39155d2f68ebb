"""Measure the speed of what prepares music.

That is loading MIDI files, musical metrics, tokenization, and the search for near-duplicates.

The files are procedural pieces, or those of `--folder`. Loading is compared with mido, metrics with MusPy, if these packages are installed.
All rates are of one process and start from the bytes of a file.
"""

import argparse
import importlib.util
import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import symusic
from comparisons import results
from comparisons.interleaved_timing import compare_in_turns, print_table
from comparisons.results import ResultRow

from provenlm.core.executors.local import LocalExecutor
from provenlm.core.records import Record
from provenlm.dedup.near_duplicates import find_duplicates
from provenlm.domains.music.content.musical_metrics import STEPS_PER_QUARTER, measure_notes
from provenlm.domains.music.content.score import MEDIA_TYPE, note_table, read_score, write_score
from provenlm.domains.music.dedupe.spec import SPEC, MusicDedupeConfig
from provenlm.domains.music.scrape.parsers import ParseLimits, RefusalError, parse_file
from provenlm.domains.music.scrape.procedural import compose_piece
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer
from provenlm.domains.music.tokenize.quantisation import MidiTokenizerConfig

SCHEMES = ("REMI", "TSD", "MIDILike", "CPWord", "Octuple")
MUSPY_METRICS = (
    "pitch_range", "n_pitch_classes_used", "polyphony", "pitch_entropy", "pitch_class_entropy", "scale_consistency", "empty_beat_rate",
)  # fmt: skip


def load_records(folder: Path | None, num_pieces: int) -> list[Record]:
    """Return the MIDI files of a folder, or procedural pieces.

    Files that the scraper refuses are left out.
    """
    if folder is None:
        contents = [write_score(compose_piece(seed)) for seed in range(num_pieces)]
    else:
        contents = []
        for path in sorted(folder.rglob("*.mid"))[:num_pieces]:
            try:
                contents.append(parse_file(path.read_bytes(), MEDIA_TYPE, ParseLimits())[0])
            except RefusalError as refusal:
                print(f"{path}: {refusal.reason}")
    return [Record.from_content(content, MEDIA_TYPE, str(n), score=1.0) for n, content in enumerate(contents)]


def load_with_symusic(contents: Sequence[bytes]) -> int:
    """Load files and count their notes."""
    return sum(symusic.Score.from_midi(content).note_num() for content in contents)


def load_with_mido(contents: Sequence[bytes]) -> int:
    """Load files with mido and count their notes."""
    import mido

    return sum(
        message.type == "note_on" and message.velocity > 0
        for content in contents
        for track in mido.MidiFile(file=io.BytesIO(content)).tracks
        for message in track
    )


def measure_with_provenlm(contents: Sequence[bytes]) -> list[Mapping[str, float]]:
    """Return the musical metrics of files."""
    return [measure_notes(note_table(read_score(content), STEPS_PER_QUARTER)) for content in contents]


def measure_with_muspy(paths: Sequence[Path]) -> list[Mapping[str, float]]:
    """Return the metrics of MusPy that have a counterpart here."""
    import muspy

    measured = []
    for path in paths:
        music = muspy.read_midi(str(path))
        measured.append({name: getattr(muspy, name)(music) for name in MUSPY_METRICS})
    return measured


def compare(name: str, unit: str, count: int, functions: Mapping[str, Callable[[], object]], rounds: int) -> list[ResultRow]:
    """Time functions that process `count` items in turns.

    Returns rates in items per CPU second.
    """
    timings = compare_in_turns(name, functions, rounds)
    print_table(timings, f"{count} {unit}")
    return [
        ResultRow(f"{name}: {timing.implementation}", 1e3 * count / timing.cpu_ms, f"{unit}/CPU s", 1 / timing.cpu_ratio)
        for timing in timings
    ]


def is_installed(package: str) -> bool:
    """Return whether a package can be imported.

    Prints that its comparison is left out otherwise.
    """
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"{package} is not installed: its comparison is left out")
    return found


def compare_loading(contents: Sequence[bytes], rounds: int) -> list[ResultRow]:
    """Compare loading with symusic, which the project uses, and mido."""
    functions: dict[str, Callable[[], object]] = {"symusic": lambda: load_with_symusic(contents)}
    if is_installed("mido"):
        functions["mido"] = lambda: load_with_mido(contents)
    return compare("load MIDI files", "files", len(contents), functions, rounds)


def compare_metrics(contents: Sequence[bytes], rounds: int) -> list[ResultRow]:
    """Compare our musical metrics with those of MusPy, file reading included."""
    functions: dict[str, Callable[[], object]] = {"provenlm": lambda: measure_with_provenlm(contents)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{n}.mid") for n in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        if is_installed("muspy"):
            functions["MusPy"] = lambda: measure_with_muspy(paths)
        return compare("musical metrics", "files", len(contents), functions, rounds)


def compare_tokenizers(records: Sequence[Record], rounds: int) -> list[ResultRow]:
    """Compare the speed of the schemes, and count their tokens."""
    tokenizers = {scheme: MidiTokenizer(MidiTokenizerConfig(scheme=scheme)) for scheme in SCHEMES}  # type: ignore[arg-type]
    functions = {scheme: partial(tokenizer.encode, records) for scheme, tokenizer in tokenizers.items()}
    rows = compare("tokenize", "files", len(records), functions, rounds)
    num_notes = load_with_symusic([record.content for record in records])
    for scheme, tokenizer in tokenizers.items():
        num_tokens = sum(len(ids) for ids in tokenizer.encode(records))
        rows.append(ResultRow(f"tokenize: {scheme}, tokens of a note", num_tokens / num_notes, "tokens"))
        rows.append(ResultRow(f"tokenize: {scheme}, vocabulary", tokenizer.vocab_size, "ids"))
    return rows


def measure_duplicates(records: Sequence[Record], rounds: int) -> list[ResultRow]:
    """Measure the search for near-duplicates, without and with that for variants."""
    config = MusicDedupeConfig()

    def search(containment_threshold: float) -> Any:
        ngram_hashes = SPEC.ngram_hashes(config)
        return find_duplicates(
            LocalExecutor(lambda: records), SPEC.normalize, ngram_hashes, config.jaccard_threshold, containment_threshold
        )

    functions = {
        "near-duplicates": lambda: search(2.0),
        "near-duplicates and variants": lambda: search(config.containment_threshold),
    }
    return compare("deduplicate", "pieces", len(records), functions, rounds)


def main() -> None:
    """Run all comparisons and write benchmarks/results/music.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "40 pieces and 1 round instead of 400 pieces and 5 rounds")
    parser.add_argument("--folder", type=Path, help="folder of MIDI files (default: procedural pieces)")
    parser.add_argument("--pieces", type=int, default=None, metavar="N", help="number of pieces")
    options = parser.parse_args()
    start = time.perf_counter()
    records = load_records(options.folder, options.pieces or (40 if options.quick else 400))
    contents, rounds = [record.content for record in records], 1 if options.quick else 5
    rows = compare_loading(contents, rounds) + compare_metrics(contents, rounds)
    rows += compare_tokenizers(records, rounds) + measure_duplicates(records, rounds)
    print(f"\n{time.perf_counter() - start:.0f} s")
    results.save_results("music", rows, options)


if __name__ == "__main__":
    main()
