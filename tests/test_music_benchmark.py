"""Test the music benchmark on a few pieces: what it compares gives equal results."""

import argparse
import json
from pathlib import Path

import pytest

pytest.importorskip("symusic")
pytest.importorskip("miditok")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def music(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import music  # benchmarks/music.py

    return music


def test_every_comparison_gives_rates_above_0(music, tmp_path, capsys):
    records = music.load_records(None, 4)
    contents = [record.content for record in records]
    rows = music.compare_loading(contents, 1) + music.compare_metrics(contents, 1)
    rows += music.compare_tokenizers(records, 1) + music.measure_duplicates(records, 1)
    assert {row.name for row in rows} >= {
        "load MIDI files: symusic",
        "musical metrics: provenlm",
        "tokenize: Octuple",
        "deduplicate: near-duplicates and variants",
    }
    assert all(row.value > 0 for row in rows)
    music.results.save_results("music", rows, argparse.Namespace(output=tmp_path / "music.json", quick=True))
    assert len(json.loads((tmp_path / "music.json").read_text())["rows"]) == len(rows)
    assert "deduplicate" in capsys.readouterr().out


def test_a_folder_is_read_without_files_that_the_scraper_refuses(music, tmp_path):
    (tmp_path / "good.mid").write_bytes(music.load_records(None, 1)[0].content)
    (tmp_path / "bad.mid").write_bytes(b"MThd")
    assert len(music.load_records(tmp_path, 10)) == 1


def test_mido_counts_the_same_notes(music):
    pytest.importorskip("mido")
    contents = [record.content for record in music.load_records(None, 3)]
    assert music.load_with_mido(contents) == music.load_with_symusic(contents)


def test_muspy_measures_the_same(music, tmp_path):
    pytest.importorskip("muspy")
    (record,) = music.load_records(None, 1)
    (tmp_path / "a.mid").write_bytes(record.content)
    (theirs,), (ours,) = music.measure_with_muspy([tmp_path / "a.mid"]), music.measure_with_provenlm([record.content])
    for name, their_name in (
        ("pitch_range", "pitch_range"),
        ("num_pitch_classes", "n_pitch_classes_used"),
        ("pitch_entropy", "pitch_entropy"),
        ("pitch_class_entropy", "pitch_class_entropy"),
        ("scale_consistency", "scale_consistency"),
    ):
        assert ours[name] == pytest.approx(theirs[their_name])
