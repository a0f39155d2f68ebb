"""The plots of dvc.yaml, read by the real DVC from a curve as training writes it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from provenlm.core.paths import ProjectPaths
from provenlm.training.loggers.csv_logger import CsvLogger

ROOT = Path(__file__).resolve().parents[1]


def dvc(root: Path, *words: str) -> str:
    return subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def half_trained(tmp_path: Path) -> Path:
    """The project's own dvc.yaml and params.yaml, and the curve of a training that is at its third step."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    curves = CsvLogger(ProjectPaths(tmp_path).curves_csv("docs_moe"), "cross_entropy")
    curves.start()
    for step, held in ((1, 8.5), (2, None), (3, 7.0)):
        values = {"cross_entropy": 9.0 - step, "tokens_per_second": 5000.0, "mfu": 0.3, "grad_norm": 1.0, "share": 1.0}
        curves.log(step, values | ({"held_out.cross_entropy": held} if held else {}))
    return tmp_path


def test_dvc_draws_the_losses_and_the_throughput_of_a_training_that_runs(half_trained: Path) -> None:
    shown: dict[str, Any] = json.loads(dvc(half_trained, "plots", "show", "--json"))
    assert not [error for error in shown.get("errors", []) if "docs_moe" in str(error)]
    curve = "reports/curves/docs_moe.csv"
    (losses,), (speed,) = shown["data"][f"dvc.yaml::{curve}"], shown["data"][curve]
    drawn = {(point["field"], int(point["step"]), float(point[point["field"]])) for point in losses["content"]["data"]["values"]}
    assert drawn == {("loss", 1, 8.0), ("loss", 2, 7.0), ("loss", 3, 6.0)} | {
        ("held_out", 1, 8.5),
        ("held_out", 2, 8.5),
        ("held_out", 3, 7.0),
    }
    assert {point["tokens_per_second"] for point in speed["content"]["data"]["values"]} == {"5000.0"}


def test_a_training_that_holds_nothing_out_is_drawn_without_a_word_of_warning(half_trained: Path) -> None:
    curves = CsvLogger(ProjectPaths(half_trained).curves_csv("docs_moe"), "cross_entropy")
    curves.start()
    for step in (1, 2):
        curves.log(step, {"cross_entropy": 9.0 - step, "tokens_per_second": 5000.0, "mfu": 0.3, "grad_norm": 1.0, "share": 1.0})
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "reports/curves", "--json"], cwd=half_trained, capture_output=True, text=True
    )
    assert "held_out" not in shown.stderr, shown.stderr
    (losses,) = json.loads(shown.stdout)["data"]["dvc.yaml::reports/curves/docs_moe.csv"]
    points = losses["content"]["data"]["values"]
    assert {float(point["loss"]) for point in points if point["field"] == "loss"} == {8.0, 7.0}
    assert {point["held_out"] for point in points} == {""}


def test_dvc_shows_the_pictures_of_the_page(half_trained: Path) -> None:
    page = ROOT / "reports" / "docs_verification_files"
    shutil.copytree(page, half_trained / "reports" / page.name)
    shown: dict[str, Any] = json.loads(dvc(half_trained, "plots", "show", "--json"))
    assert {f"reports/{page.name}/{picture.name}" for picture in page.iterdir()} <= set(shown["data"])


def test_dvc_metrics_are_the_figures_of_the_audits_and_the_counts_of_the_page(half_trained: Path) -> None:
    shutil.copytree(ROOT / "reports" / "audits", half_trained / "reports" / "audits")
    shutil.copy(ROOT / "reports" / "docs_verification.json", half_trained / "reports")
    shown: dict[str, Any] = json.loads(dvc(half_trained, "metrics", "show", "--json"))[""]["data"]
    for path in sorted((half_trained / "reports" / "audits" / "docs_moe").iterdir()):
        assert shown[f"reports/audits/docs_moe/{path.name}"]["data"]["metrics"] == json.loads(path.read_text())["metrics"]
    counts = {name: count for name, count in shown["reports/docs_verification.json"]["data"].items() if name.startswith("checks.")}
    page = (ROOT / "reports" / "docs_verification.md").read_text(encoding="utf-8")
    assert len(counts) == 6 and all(f"docs_verification/report.{name} = {count}" in page for name, count in counts.items())


def test_a_report_on_a_family_depends_on_its_recipes_and_no_other(half_trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = (half_trained / "params.yaml").read_text(encoding="utf-8")
    for name in ("ladder_memorise", "ladder_copilot"):
        written = written.replace(f"  {name}:", f"  rungs/{name}:").replace(f"{name}/", f"rungs/{name}/")
    written = written.replace("recipes: [ladder_memorise, ladder_copilot]", "recipes: [rungs]")
    (half_trained / "params.yaml").write_text(written, encoding="utf-8")
    monkeypatch.chdir(half_trained)  # DVC looks for a stage where it is started
    with Repo(str(half_trained)) as repo:
        found = {stage.addressing for stage in repo.stage.collect("report@ladder", with_deps=True)}
    corpora = {
        f"{stage}@{corpus}"
        for stage in ("scrape", "filter", "dedupe", "tokenize")
        for corpus in ("twelve_strings", "python_snippets")
    }
    recipes = {f"{stage}@rungs/{name}" for stage in ("train", "validate") for name in ("ladder_memorise", "ladder_copilot")}
    assert found == corpora | recipes | {"report@ladder"}
