"""The whole pipeline on the lowest rung of the ladder, in a copy of the repository, through DVC as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def copy_of_the_repository(folder: Path) -> Path:
    """What git would give a newcomer, as it lies in the working tree, committed afresh."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("reports/audits/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run(["git", *words], cwd=folder, env=ENVIRONMENT, check=True)
    return folder


def lowest_rung_alone(params: str) -> str:
    """The report on the ladder without its second recipe, which would take longer and show nothing more here."""
    for short, both in (("[ladder_memorise]", ", ladder_copilot"), ("[twelve_strings]", ", python_snippets")):
        assert f"{short[:-1]}{both}]" in params
        params = params.replace(f"{short[:-1]}{both}]", short)
    return "".join(
        line for line in params.splitlines(keepends=True) if not line.strip().startswith(("ladder_copilot/", "python_snippets/"))
    )


def dvc(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = copy_of_the_repository(tmp_path_factory.mktemp("repository"))
    (folder / "params.yaml").write_text(lowest_rung_alone((folder / "params.yaml").read_text()))
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


def test_every_stage_left_an_audit_whose_figures_are_described(built):
    folder, _ = built
    for stage, subject in (name.split("@") for name in STAGES[:-1]):
        audit = json.loads((folder / "reports" / "audits" / subject / f"{stage}.json").read_text())
        assert audit["metrics"] and [row[0] for row in audit["descriptions"]] == list(audit["metrics"])
        assert audit["provenance"][0]["command"] == f"python -m stages.{stage} {subject}"
        assert audit["provenance"][0]["code_digest"]


def test_the_report_is_there_and_its_verdict_was_computed(built):
    folder, _ = built
    verdict = json.loads((folder / "reports" / "ladder.json").read_text())
    assert verdict["status"] == "PASS", verdict
    assert "PASS" in (folder / "reports" / "ladder.md").read_text()


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "provenlm.cli.verify", "ladder"]
    return subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_the_report_fits_its_audits_and_files(built):
    folder, _ = built
    done = verify(folder)
    assert (done.returncode, done.stdout) == (0, "verify ladder: everything fits\n"), done.stderr


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
    done = subprocess.run(
        [sys.executable, "-m", "provenlm.cli.verify", "ladder"],
        cwd=clone,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "verify ladder: everything fits\n", done.stdout + done.stderr
    assert "Running stage" not in dvc(clone, "repro", "report@ladder").stdout


def test_a_seed_changed_after_the_run_does_not_fit(built):
    folder, _ = built
    before, rung = (folder / "params.yaml").read_text().split("  ladder_memorise:", 1)
    (folder / "params.yaml").write_text(f"{before}  ladder_memorise:{rung.replace('seed: 1', 'seed: 2', 1)}")
    done = verify(folder)
    (folder / "params.yaml").write_text(f"{before}  ladder_memorise:{rung}")
    assert done.returncode == 1
    assert "ladder_memorise/validate: recipes.ladder_memorise.train in params.yaml is not what it was run with" in done.stdout


def test_dvc_metrics_shows_the_figures(built):
    folder, _ = built
    shown = json.loads(dvc(folder, "metrics", "show", "--json").stdout)
    figures = shown[""]["data"]["reports/audits/twelve_strings/scrape.json"]["data"]["metrics"]
    assert figures["records"] == 12


def test_a_change_of_a_bound_judges_again_and_trains_nothing(built):
    folder, _ = built
    text = (folder / "params.yaml").read_text()
    changed = text.replace('twelve_strings/scrape.records: {bound: "== 12"', 'twelve_strings/scrape.records: {bound: "== 13"')
    assert changed != text
    (folder / "params.yaml").write_text(changed)
    output = dvc(folder, "repro", "report@ladder").stdout
    verdict = json.loads((folder / "reports" / "ladder.json").read_text())
    (folder / "params.yaml").write_text(text)
    assert [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")] == ["report@ladder"]
    assert verdict["status"] == "FAIL"


def test_an_unknown_key_stops_a_stage_on_its_first_line(built):
    folder, _ = built
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(
        text.replace("    scrape:\n      strings:", "    scrape:\n      stringz: 1\n      strings:")
    )
    done = subprocess.run(
        [sys.executable, "-m", "stages.scrape", "twelve_strings"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "params.yaml").write_text(text)
    assert done.returncode == 1
    assert done.stderr == (
        "scrape@twelve_strings: params.yaml: corpora.twelve_strings.scrape: unknown key 'stringz' (did you mean 'strings'?); known: strings\n"
    )


def lengthened(folder: Path) -> None:
    """Make the training long enough to be hit in the middle, with a checkpoint every few steps."""
    before, rung = (folder / "params.yaml").read_text().split("  ladder_memorise:", 1)
    longer = rung.replace("steps: 100\n", "steps: 400\n", 1)
    assert longer != rung and "checkpoints: {every: 5," in rung
    (folder / "params.yaml").write_text(f"{before}  ladder_memorise:{longer}")


def killed_in_the_middle(folder: Path) -> None:
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


def test_a_training_killed_in_the_middle_finishes_with_the_same_weights(built, tmp_path):
    folder, _ = built
    lengthened(folder)
    killed_in_the_middle(folder)
    assert not (folder / "models" / "ladder_memorise" / "model.safetensors").exists()
    done = dvc(folder, "repro", "--single-item", "train@ladder_memorise")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after step" in done.stdout
    resumed = hashing.sha256_file(folder / "models" / "ladder_memorise" / "model.safetensors")
    assert not [path for path in (folder / "models" / ".resume").rglob("*") if path.is_file()]
    undisturbed = dvc(folder, "repro", "--force", "--single-item", "train@ladder_memorise")
    assert undisturbed.returncode == 0 and "going on" not in undisturbed.stdout
    assert hashing.sha256_file(folder / "models" / "ladder_memorise" / "model.safetensors") == resumed
