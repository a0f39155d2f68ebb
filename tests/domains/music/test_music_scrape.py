import sys
import time
import zipfile

import pytest
import symusic

from provenlm.core import config
from provenlm.core.errors import ConfigError
from provenlm.core.hashing import sha256_bytes
from provenlm.core.progress import ProgressReporter
from provenlm.domains.music.content.score import note_table, read_score, write_score
from provenlm.domains.music.scrape import music21_corpus
from provenlm.domains.music.scrape.parser_pool import ParserPool
from provenlm.domains.music.scrape.parsers import ParseLimits, RefusalError, check_midi, parse_file
from provenlm.domains.music.scrape.procedural import compose_piece
from provenlm.domains.music.scrape.spec import SPEC, MusicScrapeConfig
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer, MidiTokenizerConfig
from provenlm.scraping.sources.items import DropReason, SourceItem
from tests.domains.music.scores import make_score

ABC = "X:1\nT:Scale\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|\n"
MUSICXML = """<?xml version="1.0"?><score-partwise version="3.1"><part-list><score-part id="P1"><part-name>x</part-name></score-part>
</part-list><part id="P1"><measure number="1"><attributes><divisions>1</divisions></attributes>
<note><pitch><step>C</step><octave>4</octave></pitch><duration>1</duration></note>
<note><pitch><step>E</step><octave>4</octave></pitch><duration>3</duration></note></measure></part></score-partwise>"""
KERN = "**kern\n*M4/4\n4c\n4d\n2e\n*-\n"


def chunk(name: bytes, body: bytes, size=None) -> bytes:
    return name + (len(body) if size is None else size).to_bytes(4, "big") + body


def midi_file(track: bytes, file_format=0, num_tracks=1, division=480, size=None) -> bytes:
    header = b"".join(value.to_bytes(2, "big") for value in (file_format, num_tracks, division))
    return chunk(b"MThd", header) + chunk(b"MTrk", track, size)


ONE_NOTE = b"\x00\x90\x3c\x50\x83\x60\x80\x3c\x00\x00\xff\x2f\x00"


def fetch(tmp_path, sources, progress=None, **settings):
    scrape_config = config.parse_config(MusicScrapeConfig, {"sources": sources, "num_workers": 1, **settings}, "x")
    return list(SPEC.fetch(scrape_config, tmp_path / "state", progress or ProgressReporter("x", "files", None)))


def outcomes(results):
    return {result.url.rsplit("/", 1)[-1]: result.reason for result in results}


HOSTILE = {
    "empty.mid": (b"", "no-midi"),
    "text.mid": (b"hello world, this is text", "no-midi"),
    "format2.mid": (midi_file(ONE_NOTE, file_format=2), "midi-format-2"),
    "cut.mid": (midi_file(ONE_NOTE)[:-6], "midi-truncated"),
    "too_long_track.mid": (midi_file(ONE_NOTE, size=2**31), "midi-truncated"),
    "missing_tracks.mid": (midi_file(ONE_NOTE, file_format=1, num_tracks=60000), "midi-truncated"),
    "no_division.mid": (midi_file(ONE_NOTE, division=0), "midi-without-beats"),
    "no_notes.mid": (midi_file(b"\x00\xff\x2f\x00"), "no-notes"),
    "cluster.mid": (
        midi_file(b"\x00\x90\x3c\x50" * 300 + b"\x83\x60\x80\x3c\x00" * 300 + b"\x00\xff\x2f\x00"),
        "too-many-notes-at-once",
    ),
    "million_at_once.mid": (
        midi_file(b"\x00\x90" + b"\x3c\x50\x00" * 1_000_000 + b"\x3c\x00\x00" * 1_000_000 + b"\xff\x2f\x00"),
        "too-many-notes",
    ),
    "notes_without_end.mid": (midi_file(b"\x00\x90" + b"\x3c\x50\x00" * 100_000 + b"\xff\x2f\x00"), "no-notes"),
    "track_without_end.mid": (midi_file(ONE_NOTE[:-4]), ""),
    "track_of_running_status.mid": (midi_file(b"\x00\x90" + b"\x3c\x50\x00" * 200), "midi-damaged"),
    "too_short_track.mid": (midi_file(ONE_NOTE, size=7), "midi-damaged"),
    "wrong_header_length.mid": (b"MThd" + (2**31).to_bytes(4, "big") + bytes(6) + chunk(b"MTrk", ONE_NOTE), "midi-damaged"),
    "wrong_meta_length.mid": (midi_file(b"\x00\xff\x01\xff\xff\xff\x7f" + ONE_NOTE), "midi-damaged"),
    "number_without_end.mid": (midi_file(b"\xff" * 1000 + ONE_NOTE), "midi-damaged"),
    "system_exclusive_without_end.mid": (midi_file(b"\x00\xf0\x7f" + ONE_NOTE), "midi-damaged"),
    "smpte.mid": (midi_file(ONE_NOTE, division=0xE728), "midi-without-beats"),
    "alien_chunks.mid": (midi_file(ONE_NOTE).replace(b"MTrk", chunk(b"XXXX", b"abc") * 10 + b"MTrk"), ""),
    "tempo_zero.mid": (midi_file(b"\x00\xff\x51\x03\x00\x00\x00" + ONE_NOTE), ""),
    "meter_zero.mid": (midi_file(b"\x00\xff\x58\x04\x00\x00\x18\x08" + ONE_NOTE), ""),
    "meter_huge.mid": (midi_file(b"\x00\xff\x58\x04\xff\xff\x18\x08" + ONE_NOTE), ""),
    "riff_cut.rmi": (b"RIFF\x00\x00\x00\x00RMIDdata", "riff-without-midi"),
    "endless.mid": (midi_file((b"\x00\x90\x3c\x50\xff\xff\xff\x7f\x80\x3c\x00") * 20 + b"\x00\xff\x2f\x00"), "too-long"),
    "riff.rmi": (b"RIFF\x00\x00\x00\x00RMIDdata\x00\x00\x00\x00" + midi_file(ONE_NOTE), ""),
    "riff_audio.rmi": (b"RIFF\x00\x00\x00\x00WAVE" + bytes(100), "no-midi"),
    "good.mid": (midi_file(ONE_NOTE), ""),
    "damaged.mxl": (b"PK\x03\x04 no archive", "score-damaged"),
    "damaged.musicxml": (b"<score-partwise><part>", "score-damaged"),
    "notes.txt": (b"no score", "media-type"),
}


def test_each_hostile_file_is_one_refusal_with_its_reason(tmp_path):
    """An endless track, 10^6 notes, wrong lengths, format 2 and RIFF do not stop the stage; whole files in between are kept.

    No file needs the time limit of its parser.
    """
    (tmp_path / "files").mkdir()
    for name, (content, _) in HOSTILE.items():
        (tmp_path / "files" / name).write_bytes(content)
    progress = ProgressReporter("x", "files", None)
    source = {"kind": "folder", "path": str(tmp_path / "files")}
    results = fetch(tmp_path, [source], progress=progress, max_bytes=8_000_000, timeout_seconds=60.0)
    assert outcomes(results) == {name: reason for name, (_, reason) in HOSTILE.items()}
    assert len(results) == progress.num_done == len(HOSTILE)
    tokenizer = MidiTokenizer(MidiTokenizerConfig(num_tempos=8))
    assert all(len(tokenizer.encode_content(result.record.content)) for result in results if result.record is not None)


def test_a_file_that_hangs_costs_its_time_limit_and_no_more(tmp_path):
    """One hanging file among whole ones is one refusal, after the time limit of one file."""
    script = """
import json, sys, time
while line := sys.stdin.buffer.readline():
    content = sys.stdin.buffer.read(json.loads(line)["size"])
    if content == b"hang":
        time.sleep(600)
    sys.stdout.buffer.write(json.dumps({"metadata": {}, "size": len(content)}).encode() + b"\\n" + content)
    sys.stdout.buffer.flush()
"""
    items = [SourceItem(str(n), b"hang" if n == 1 else midi_file(ONE_NOTE), "audio/midi", {}, 1) for n in range(4)]
    start = time.monotonic()
    with ParserPool(1, 4.0, {}, [sys.executable, "-c", script]) as pool:
        results = list(pool.map(pool.parse, items))
    assert 4 <= time.monotonic() - start < 16
    assert [isinstance(result, DropReason) for result in results] == [False, True, False, False]
    assert results[1] == DropReason("timeout", failed=True)


def test_abc_musicxml_kern_and_mxl_files_become_midi_records(tmp_path):
    (tmp_path / "a.abc").write_text(ABC)
    (tmp_path / "b.musicxml").write_text(MUSICXML)
    (tmp_path / "c.krn").write_text(KERN)
    with zipfile.ZipFile(tmp_path / "d.mxl", "w") as archive:
        archive.writestr("score.musicxml", MUSICXML)
        container = '<container><rootfiles><rootfile full-path="score.musicxml"/></rootfiles></container>'
        archive.writestr("META-INF/container.xml", container)
    records = [result.record for result in fetch(tmp_path, [{"kind": "folder", "path": str(tmp_path), "license": "CC0-1.0"}])]
    tables = [note_table(read_score(record.content), 1) for record in records]
    assert [table.pitches.tolist() for table in tables] == [[60, 62, 64, 65, 67, 69, 71, 72], [60, 64], [60, 62, 64], [60, 64]]
    assert tables[2].durations.tolist() == [1, 1, 2]
    assert {record.media_type for record in records} == {"audio/midi"}
    assert records[0].metadata["source_sha256"] == sha256_bytes(ABC.encode())
    assert (records[0].metadata["title"], records[0].metadata["license"]) == ("Scale", "CC0-1.0")


def test_an_abc_file_of_two_tunes_gives_two_records(tmp_path):
    (tmp_path / "book.abc").write_text("% a book\n\n" + ABC + "\n" + ABC.replace("X:1", "X:2").replace("CDEF", "FEDC"))
    results = fetch(tmp_path, [{"kind": "folder", "path": str(tmp_path)}])
    assert [result.url.rsplit("/", 1)[-1] for result in results] == ["book.abc#1", "book.abc#2"]
    assert all(result.state == "record" for result in results)


def test_an_archive_that_unpacks_to_too_many_bytes_is_refused(tmp_path):
    path = tmp_path / "bomb.mxl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.musicxml", b" " * 40_000_000)
    with pytest.raises(RefusalError, match="too-large"):
        parse_file(path.read_bytes(), "application/vnd.recordare.musicxml", ParseLimits())


@pytest.mark.parametrize(
    ("script", "reason"), [("import time; time.sleep(60)", "timeout"), ("import os; os.abort()", "parser-crash")]
)
def test_a_parser_that_hangs_or_crashes_costs_one_file(script, reason):
    with ParserPool(1, 1.0, {}, [sys.executable, "-c", script]) as pool:
        items = [SourceItem(str(n), b"x" * 2_000_000, "audio/midi", {}, 1) for n in range(2)]
        assert list(pool.map(pool.parse, items)) == [DropReason(reason, failed=True)] * 2


def test_results_keep_the_order_of_the_files(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.mid").write_bytes(write_score(compose_piece(number)))
    results = fetch(tmp_path, [{"kind": "folder", "path": str(tmp_path)}], num_workers=2)
    assert [result.url.rsplit("/", 1)[-1] for result in results] == [f"{number:02}.mid" for number in range(40)]


def test_writing_a_canonical_file_again_changes_no_byte():
    content = write_score(compose_piece(3))
    assert write_score(read_score(content)) == content


def test_a_note_ends_where_the_same_pitch_begins_again():
    score = make_score([(0, 960, 60), (480, 480, 60), (480, 100, 60), (0, 480, 64)])
    table = note_table(read_score(write_score(score)), 480)
    assert list(zip(table.onsets.tolist(), table.durations.tolist(), table.pitches.tolist(), strict=True)) == [
        (0, 480, 60),
        (0, 480, 64),
        (480, 480, 60),
    ]


def test_procedural_pieces_depend_on_their_seed_alone(tmp_path):
    source = {"kind": "procedural", "num_pieces": 3, "seed": 7}
    first, second = ([result.record.id for result in fetch(tmp_path, [source])] for _ in range(2))
    other = [result.record.id for result in fetch(tmp_path, [{**source, "seed": 8}])]
    assert first == second
    assert len({*first, *other}) == 6


def test_a_restricted_collection_is_refused_until_it_is_accepted_by_name():
    section = {"sources": [{"kind": "music21", "collections": ["palestrina"]}]}
    with pytest.raises(ConfigError, match=r"accept_license must name 'palestrina' \(all derivative electronic formats reserved"):
        config.parse_config(MusicScrapeConfig, section, "x")
    section["sources"][0]["accept_license"] = ["palestrina"]
    assert config.parse_config(MusicScrapeConfig, section, "x").sources[0].accept_license == ("palestrina",)


def test_every_collection_of_music21_has_a_license_tag_or_is_restricted():
    ignored = {"_metadataCache", "__pycache__", "demos", "theoryExercises"}
    folders = {path.name for path in music21_corpus.corpus_folder().iterdir() if path.is_dir()} - ignored
    assert folders == {*music21_corpus.LICENSES, *music21_corpus.RESTRICTED_LICENSES}


def test_a_tune_of_the_corpus_carries_collection_license_and_digest():
    source = music21_corpus.Music21Source("music21", ("airdsAirs",))
    item = next(music21_corpus.read_music21(source))
    with ParserPool(1, 60.0, {}) as pool:
        record = pool.parse(item)
    assert item.url == "music21:airdsAirs/book1.abc#0001"
    assert record.metadata["title"] == "The Ranting Highlandman."
    assert record.metadata["source_sha256"] == sha256_bytes(item.content)
    assert (record.metadata["collection"], record.metadata["license"]) == (
        "airdsAirs",
        "public-domain tunes, transcribers credited",
    )


def test_ties_are_merged_and_grace_notes_left_out():
    from music21 import note, stream, tie

    from provenlm.domains.music.scrape.parsers import to_symusic

    first, second = note.Note("C4", quarterLength=2), note.Note("C4", quarterLength=1)
    first.tie, second.tie = tie.Tie("start"), tie.Tie("stop")
    table = note_table(to_symusic(stream.Stream([first, second, note.Note("D4").getGrace()])), 1)
    assert (table.durations.tolist(), table.pitches.tolist()) == ([3], [60])


def test_a_riff_container_is_removed():
    content = midi_file(ONE_NOTE)
    assert check_midi(b"RIFF\x00\x00\x00\x00RMIDdata\x00\x00\x00\x00" + content) == content
    assert symusic.Score.from_midi(content).note_num() == 1
