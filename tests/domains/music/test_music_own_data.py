"""Run the documented command for own music: its folder of MIDI, MusicXML and ABC files becomes tokens."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from in_process import run_stage

from provenlm.core.audit import read_audit
from provenlm.core.config import load_params, override_params
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import read_records
from provenlm.core.stages import CORPUS_STAGES
from provenlm.data.token_dataset import load_token_dataset
from provenlm.domains.music.content.score import write_score
from provenlm.domains.music.scrape.procedural import compose_piece

ROOT = Path(__file__).resolve().parents[3]
COMMAND = re.compile(r"<!-- tested: tests/domains/music/test_music_own_data.py -->\n```\n(.*?)\n```", re.DOTALL)
CORPUS = "folk_and_bach"
STEPS = "CDEFGAB"


def melody(seed):
    """Return 64 notes of the scale of C, in degrees from middle C on."""
    return np.clip(np.cumsum(np.random.default_rng(seed).integers(-3, 4, 64)) + 5, 0, 13).tolist()


def abc_tune(seed):
    names = [STEPS[degree] if degree < 7 else STEPS[degree - 7].lower() for degree in melody(seed)]
    bars = "|".join("".join(names[start : start + 4]) for start in range(0, len(names), 4))
    return f"X:{seed}\nT:Tune {seed}\nM:4/4\nL:1/4\nK:C\n{bars}|\n"


def musicxml(seed):
    measures = [
        f'<measure number="{number + 1}"><attributes><divisions>1</divisions></attributes>'
        + "".join(
            f"<note><pitch><step>{STEPS[degree % 7]}</step><octave>{4 + degree // 7}</octave></pitch><duration>1</duration></note>"
            for degree in melody(seed)[4 * number : 4 * number + 4]
        )
        + "</measure>"
        for number in range(16)
    ]
    parts = '<part-list><score-part id="P1"><part-name>x</part-name></score-part></part-list>'
    return f'<?xml version="1.0"?><score-partwise version="3.1">{parts}<part id="P1">{"".join(measures)}</part></score-partwise>'


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Run the stages of the corpus as the documented command does, on a folder with eight whole files and a damaged one."""
    root, folder = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("scores")
    (folder / "deeper").mkdir()
    for seed in range(3):
        (folder / f"{seed}.mid").write_bytes(write_score(compose_piece(seed)))
        (folder / "deeper" / f"{seed}.musicxml").write_text(musicxml(seed))
    (folder / "book.abc").write_text(abc_tune(11) + "\n" + abc_tune(12))
    (folder / "damaged.mid").write_bytes(b"MThd")
    (command,) = COMMAND.findall((ROOT / "docs" / "how-to" / "own-data.md").read_text(encoding="utf-8"))
    name, build, recipe, option, override = shlex.split(command)
    assert (name, build, option) == ("provenlm", "build", "--set")
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    assert load_params(root / "params.yaml").entry("recipes", recipe)["corpus"] == CORPUS
    override_params(root / "params.yaml", [override.replace("/home/me/scores", folder.as_posix())])
    for stage in CORPUS_STAGES:
        result = run_stage(root, stage, CORPUS)
        assert result.returncode == 0, result.stdout + result.stderr
    return ProjectPaths(root)


def values(project, stage):
    return {name: metric.value for name, metric in read_audit(project.audit_json(CORPUS, stage)).metrics.items()}


def test_every_whole_file_of_the_folder_becomes_tokens(project):
    assert values(project, "scrape")["records"] == 8
    assert sorted(record.metadata.get("title", "") for record in read_records(project.corpus_dir(CORPUS, "deduped")))[-2:] == [
        "Tune 11",
        "Tune 12",
    ]
    metrics = values(project, "tokenize")
    assert metrics["documents.train"] + metrics["documents.val"] == 8
    assert (metrics["integrity.matched"], metrics["integrity.decode_mismatch"]) == (8, 0)


def test_a_damaged_file_is_counted_with_its_reason(project):
    metrics = values(project, "scrape")
    assert metrics["urls.skipped.no-midi"] == 1


def test_the_tokens_tell_which_ids_are_bars_and_pitches(project):
    dataset = load_token_dataset(project.corpus_dir(CORPUS, "tokens"))
    is_pitch = np.isin(dataset.train.ids, dataset.token_classes["Pitch"])
    assert {"Bar", "Pitch", "Duration", "Position"} <= dataset.token_classes.keys()
    assert 0.2 < is_pitch.mean() < 0.5
