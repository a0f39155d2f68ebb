"""Test the plots and metrics of dvc.yaml with the real DVC."""

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
def training_project(tmp_path: Path) -> Path:
    """Copy dvc.yaml and params.yaml, and write the curve of a training at its third step."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    curves = CsvLogger(ProjectPaths(tmp_path).curves_csv("docs_moe"), "cross_entropy")
    curves.start()
    for step, val_loss in ((1, 8.5), (2, None), (3, 7.0)):
        values = {"cross_entropy": 9.0 - step, "tokens_per_second": 5000.0, "mfu": 0.3, "grad_norm": 1.0, "lr_scale": 1.0}
        curves.log(step, values | ({"val.cross_entropy": val_loss} if val_loss else {}))
    return tmp_path


def test_dvc_plots_losses_and_throughput_of_a_running_training(training_project: Path) -> None:
    output: dict[str, Any] = json.loads(dvc(training_project, "plots", "show", "--json"))
    assert not [error for error in output.get("errors", []) if "docs_moe" in str(error)]
    curve = "reports/curves/docs_moe.csv"
    (losses,), (speed,) = output["data"][f"dvc.yaml::{curve}"], output["data"][curve]
    points = {(point["field"], int(point["step"]), float(point[point["field"]])) for point in losses["content"]["data"]["values"]}
    assert points == {("loss", 1, 8.0), ("loss", 2, 7.0), ("loss", 3, 6.0)} | {
        ("val_loss", 1, 8.5),
        ("val_loss", 2, 8.5),
        ("val_loss", 3, 7.0),
    }
    assert {point["tokens_per_second"] for point in speed["content"]["data"]["values"]} == {"5000.0"}


def test_a_training_without_validation_is_plotted_without_a_warning(training_project: Path) -> None:
    curves = CsvLogger(ProjectPaths(training_project).curves_csv("docs_moe"), "cross_entropy")
    curves.start()
    for step in (1, 2):
        curves.log(step, {"cross_entropy": 9.0 - step, "tokens_per_second": 5000.0, "mfu": 0.3, "grad_norm": 1.0, "lr_scale": 1.0})
    completed = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "reports/curves", "--json"],
        cwd=training_project,
        capture_output=True,
        text=True,
    )
    assert "val_loss" not in completed.stderr, completed.stderr
    (losses,) = json.loads(completed.stdout)["data"]["dvc.yaml::reports/curves/docs_moe.csv"]
    points = losses["content"]["data"]["values"]
    assert {float(point["loss"]) for point in points if point["field"] == "loss"} == {8.0, 7.0}
    assert {point["val_loss"] for point in points} == {""}


def test_dvc_shows_the_images_of_the_report_page(training_project: Path) -> None:
    page = ROOT / "reports" / "docs_verification_files"
    shutil.copytree(page, training_project / "reports" / page.name)
    output: dict[str, Any] = json.loads(dvc(training_project, "plots", "show", "--json"))
    assert {f"reports/{page.name}/{image.name}" for image in page.iterdir()} <= set(output["data"])


def test_dvc_metrics_equal_the_audits_and_the_counts_of_the_page(training_project: Path) -> None:
    shutil.copytree(ROOT / "reports" / "audits", training_project / "reports" / "audits")
    shutil.copy(ROOT / "reports" / "docs_verification.json", training_project / "reports")
    output: dict[str, Any] = json.loads(dvc(training_project, "metrics", "show", "--json"))[""]["data"]
    for path in sorted((training_project / "reports" / "audits" / "docs_moe").iterdir()):
        assert output[f"reports/audits/docs_moe/{path.name}"]["data"]["metrics"] == json.loads(path.read_text())["metrics"]
    counts = {name: count for name, count in output["reports/docs_verification.json"]["data"].items() if name.startswith("checks.")}
    page = (ROOT / "reports" / "docs_verification.md").read_text(encoding="utf-8")
    assert len(counts) == 8 and all(f"docs_verification/report.{name} = {count}" in page for name, count in counts.items())


def test_a_report_on_a_family_depends_on_its_recipes_only(training_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (training_project / "params.yaml").read_text(encoding="utf-8")
    for name in ("ladder_memorise", "ladder_copilot"):
        text = text.replace(f"  {name}:", f"  rungs/{name}:").replace(f"{name}/", f"rungs/{name}/")
    text = text.replace("recipes: [ladder_memorise, ladder_copilot]", "recipes: [rungs]")
    (training_project / "params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(training_project)  # DVC looks for a stage where it is started
    with Repo(str(training_project)) as repo:
        addresses = {stage.addressing for stage in repo.stage.collect("report@ladder", with_deps=True)}
    corpora = {
        f"{stage}@{corpus}"
        for stage in ("scrape", "filter", "dedupe", "tokenize")
        for corpus in ("twelve_strings", "python_snippets")
    }
    recipes = {f"{stage}@rungs/{name}" for stage in ("train", "validate") for name in ("ladder_memorise", "ladder_copilot")}
    assert addresses == corpora | recipes | {"report@ladder"}
