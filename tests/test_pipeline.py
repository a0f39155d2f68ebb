"""Run the pipeline for the smallest recipe through DVC, in a copy of the repository."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from in_process import run_command, run_stage
from ruamel.yaml import YAML

from provenlm.core import hashing

ROOT = Path(__file__).resolve().parents[1]
STAGES = ["scrape@twelve_strings", "filter@twelve_strings", "dedupe@twelve_strings", "tokenize@twelve_strings"]
STAGES += ["train@ladder_memorise", "validate@ladder_memorise", "report@ladder"]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


def copy_repository(folder: Path) -> Path:
    """Copy the tracked and untracked files of the working tree, without the evidence, and commit them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("reports/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run(["git", *words], cwd=folder, env=ENVIRONMENT, check=True)
    return folder


def read_params(folder: Path) -> Any:
    return YAML(typ="safe").load(folder / "params.yaml")


def write_params(folder: Path, params: Any) -> None:
    YAML().dump(params, folder / "params.yaml")


@contextmanager
def edited_params(folder: Path) -> Iterator[Any]:
    """Let the test edit params.yaml before its block runs, and restore the file afterwards."""
    text = (folder / "params.yaml").read_text()
    try:
        yield read_params(folder)
    finally:
        (folder / "params.yaml").write_text(text)


def keep_smallest_recipe(params: Any) -> None:
    """Leave the second recipe out of the report: it takes longer and shows nothing more here."""
    report = params["reports"]["ladder"]
    assert report["recipes"].pop() == "ladder_copilot" and report["corpora"].pop() == "python_snippets"
    own_checks = report["checks"][1]
    report["checks"][1] = {name: check for name, check in own_checks.items() if not name.startswith("ladder_copilot/")}


def dvc(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = copy_repository(tmp_path_factory.mktemp("repository"))
    params = read_params(folder)
    keep_smallest_recipe(params)
    write_params(folder, params)
    done = dvc(folder, "repro", "report@ladder")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_dvc_repro_runs_every_stage_from_scrape_to_report(built):
    _, output = built
    assert [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")] == STAGES


def test_run_again_it_does_nothing(built):
    folder, _ = built
    output = dvc(folder, "repro", "report@ladder").stdout
    assert "Running stage" not in output
    assert [line.split("'")[1] for line in output.splitlines() if "didn't change" in line] == STAGES


def test_every_stage_writes_an_audit_with_described_metrics(built):
    folder, _ = built
    for stage, subject in (name.split("@") for name in STAGES[:-1]):
        audit = json.loads((folder / "reports" / "audits" / subject / f"{stage}.json").read_text())
        assert audit["metrics"] and [row[0] for row in audit["descriptions"]] == list(audit["metrics"])
        assert audit["provenance"][0]["command"] == f"python -m stages.{stage} {subject}"
        assert audit["provenance"][0]["code_digest"]


def test_the_report_passes(built):
    folder, _ = built
    verdict = json.loads((folder / "reports" / "ladder.json").read_text())
    assert verdict["status"] == "PASS", verdict
    assert "PASS" in (folder / "reports" / "ladder.md").read_text()


def test_the_report_fits_its_audits_and_files(built):
    folder, _ = built
    done = run_command(folder, "verify", "ladder")
    assert (done.returncode, done.stdout) == (0, "verify ladder: no mismatch\n"), done.stderr


def test_on_a_clone_the_report_fits_after_a_pull_and_nothing_is_built(built, tmp_path):
    folder, _ = built
    for words in (["add", "-A"], ["commit", "-qm", "built"]):
        subprocess.run(["git", *words], cwd=folder, env=ENVIRONMENT, check=True)
    (tmp_path / "remote").mkdir()
    assert dvc(folder, "remote", "add", "-f", "-d", "--local", "there", str(tmp_path / "remote")).returncode == 0
    assert dvc(folder, "push").returncode == 0
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(folder), str(clone)], env=ENVIRONMENT, check=True)
    assert dvc(clone, "remote", "add", "-d", "--local", "there", str(tmp_path / "remote")).returncode == 0
    pulled = dvc(clone, "pull", "--with-deps", "report@ladder")
    assert pulled.returncode == 0, pulled.stderr
    done = run_command(clone, "verify", "ladder")
    assert done.stdout == "verify ladder: no mismatch\n", done.stdout + done.stderr
    assert "Running stage" not in dvc(clone, "repro", "report@ladder").stdout


def test_a_seed_changed_after_the_run_is_a_mismatch(built):
    folder, _ = built
    with edited_params(folder) as params:
        params["recipes"]["ladder_memorise"]["train"]["seed"] = 2
        write_params(folder, params)
        done = run_command(folder, "verify", "ladder")
    assert done.returncode == 1
    assert "ladder_memorise/validate: recipes.ladder_memorise.train in params.yaml has changed since the stage ran" in done.stdout


DEFAULTS = {  # by file: a default as it is, another value, and the stage that reads it
    "provenlm/training/config.py": ("seq_len: int = 256", "seq_len: int = 255", "train@ladder_memorise"),
    "provenlm/models/gpt/config.py": ("dropout: float = 0.0", "dropout: float = 0.1", "train@ladder_memorise"),
    "provenlm/domains/strings/tokenize/spec.py": ("add_eos: bool = False", "add_eos: bool = True", "tokenize@twelve_strings"),
}


@pytest.fixture(scope="module")
def statuses(built):
    """Return the status of stages with changed defaults, and after their return."""
    folder, _ = built
    texts = {file: (folder / file).read_text() for file in DEFAULTS}
    stages = {stage for _, _, stage in DEFAULTS.values()}
    for file, (old, new, _) in DEFAULTS.items():
        assert old in texts[file]
        (folder / file).write_text(texts[file].replace(old, new))
    changed = json.loads(dvc(folder, "status", "--json", *stages).stdout)
    for file, text in texts.items():
        (folder / file).write_text(text)
    return changed, json.loads(dvc(folder, "status", "--json", *stages).stdout)


@pytest.mark.parametrize("file", DEFAULTS)
def test_dvc_runs_a_stage_again_when_a_default_of_its_settings_changes(statuses, file):
    """Defaults are code, and the code of a stage is a dependency of it."""
    changed, restored = statuses
    (dependencies,) = [change["changed deps"] for change in changed[DEFAULTS[file][2]] if "changed deps" in change]
    (state,) = [state for path, state in dependencies.items() if file == path or file.startswith(f"{path}/")]
    assert state == "modified"
    assert restored == {}


def test_dvc_metrics_shows_the_metrics(built):
    folder, _ = built
    shown = json.loads(dvc(folder, "metrics", "show", "--json").stdout)
    metrics = shown[""]["data"]["reports/audits/twelve_strings/scrape.json"]["data"]["metrics"]
    assert metrics["records"] == 12


def test_a_changed_check_runs_the_report_only(built):
    folder, _ = built
    with edited_params(folder) as params:
        params["reports"]["ladder"]["checks"][1]["twelve_strings/scrape.records"]["expect"] = "== 13"
        write_params(folder, params)
        output = dvc(folder, "repro", "report@ladder").stdout
        verdict = json.loads((folder / "reports" / "ladder.json").read_text())
    assert [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")] == ["report@ladder"]
    assert verdict["status"] == "FAIL"


def test_an_unknown_key_stops_a_stage_with_one_line(built):
    folder, _ = built
    with edited_params(folder) as params:
        params["corpora"]["twelve_strings"]["scrape"]["stringz"] = 1
        write_params(folder, params)
        done = run_stage(folder, "scrape", "twelve_strings")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "scrape@twelve_strings: params.yaml: corpora.twelve_strings.scrape: "
        "unknown key 'stringz' (did you mean 'strings'?); known: strings, file"
    ]


def lengthen_training(folder: Path) -> None:
    """Make the training long enough to be killed in the middle, with a checkpoint every few steps."""
    params = read_params(folder)
    train = params["recipes"]["ladder_memorise"]["train"]
    assert train["checkpoints"]["save_interval"] == 5
    train["max_steps"] = 400
    write_params(folder, params)


def kill_in_the_middle(folder: Path) -> None:
    """Start the training through DVC, wait for its second checkpoint, kill -9 everything at once."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "train@ladder_memorise"],
        cwd=folder, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    resume = folder / "models" / ".resume"
    deadline = time.monotonic() + 120
    while len(list(resume.rglob("manifest.json"))) < 2:
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow  # a minute; tests/stages/test_train_stage.py kills the stage alone
def test_a_training_killed_in_the_middle_finishes_with_the_same_weights(built, tmp_path):
    folder, _ = built
    lengthen_training(folder)
    kill_in_the_middle(folder)
    assert not (folder / "models" / "ladder_memorise" / "model.safetensors").exists()
    done = dvc(folder, "repro", "--single-item", "train@ladder_memorise")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in done.stdout
    resumed = hashing.sha256_file(folder / "models" / "ladder_memorise" / "model.safetensors")
    assert not [path for path in (folder / "models" / ".resume").rglob("*") if path.is_file()]
    undisturbed = dvc(folder, "repro", "--force", "--single-item", "train@ladder_memorise")
    assert undisturbed.returncode == 0 and "resuming" not in undisturbed.stdout
    assert hashing.sha256_file(folder / "models" / "ladder_memorise" / "model.safetensors") == resumed
