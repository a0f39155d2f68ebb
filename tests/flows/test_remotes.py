"""Test that a clone pulls what another pushed, from a folder or S3, and has nothing left to build."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tiny_project import KEYS, Project

ROOT = Path(__file__).resolve().parents[2]


def cloned(project, name):
    """Make a second clone of `project`, without a cache."""
    folder = project.root.parent / name
    project.git("clone", "--quiet", str(project.root), str(folder))
    clone = object.__new__(Project)
    clone.root, clone.environment = folder, project.environment
    return clone


def test_a_second_clone_pulls_from_s3_and_builds_nothing(built, bucket):
    built.dvc("config", "core.no_scm", "false")
    built.dvc("remote", "add", "--default", "store", "s3://store/tiny")
    built.dvc("remote", "modify", "store", "endpointurl", bucket)
    built.environment |= KEYS
    built.commit()
    built.dvc("push")
    second = cloned(built, "second")
    assert not (second.root / "models").exists()
    second.dvc("pull")
    out = second.dvc("repro", "report@proof")
    assert "Data and pipelines are up to date." in out and "Running" not in out
    assert (second.root / "models/small/model.json").read_bytes() == (built.root / "models/small/model.json").read_bytes()


def test_git_and_dvc_restore_an_earlier_version(built):
    built.commit()
    built.git("tag", "before")
    before = (built.root / "models/small/model.json").read_bytes()
    built.set("recipes", "small", train={"steps": 7})
    built.dvc("repro", "report@proof")
    built.commit()
    changed = json.loads(built.dvc("metrics", "diff", "before", "--json"))
    assert {"old": 3, "new": 7, "diff": 4} in [metric for file in changed.values() for metric in metrics(file)]
    assert (built.root / "models/small/model.json").read_bytes() != before
    built.git("checkout", "--quiet", "before")
    built.dvc("checkout")
    assert (built.root / "models/small/model.json").read_bytes() == before
    assert "up to date" in built.dvc("status")


def metrics(value):
    """List the metrics of `dvc metrics diff --json` at any depth."""
    if "new" in value and "old" in value and not isinstance(value["new"], dict):
        return [value]
    return [metric for inner in value.values() if isinstance(inner, dict) for metric in metrics(inner)]


@pytest.mark.slow  # a dozen DVC processes; test_build.py saves, lists and applies an experiment
def test_a_dvc_experiment_runs_and_is_listed(built):
    built.commit()
    built.dvc("exp", "run", "--set-param", "recipes.small.train.steps=6", "--name", "six", "report@proof")
    assert json.loads((built.root / "models/small/model.json").read_text()) == 6
    assert "six" in built.dvc("exp", "show", "--csv")


def test_an_in_place_write_never_reaches_the_cache(built):
    """The project sets `cache.type` to copies or reflinks, never to links."""
    shutil.copy(ROOT / ".dvc/config", built.root / ".dvc/config")
    built.dvc("config", "core.no_scm", "true")
    model = built.root / "models/small/model.json"
    shutil.rmtree(model.parent)
    built.dvc("checkout", "train@small")
    before = model.read_bytes()
    assert not model.is_symlink() and model.stat().st_nlink == 1
    with model.open("ab") as file:
        file.write(b"damage")
    model.unlink()
    built.dvc("checkout", "--force", "train@small")
    assert model.read_bytes() == before


@pytest.mark.slow  # a real build: a minute of CPU
def test_a_second_clone_of_the_project_pulls_verifies_and_builds_nothing(tmp_path):
    project = object.__new__(Project)
    project.root, project.environment = tmp_path / "first", {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(project.root)], check=True)
    params = YAML(typ="safe").load(project.root / "params.yaml")  # the shortest recipe, with its own report
    params["recipes"]["ladder_memorise"]["train"]["steps"] = 5
    report = {"title": "Small", "recipes": ["ladder_memorise"], "corpora": ["twelve_strings"], "schedule": None, "checks": {}}
    YAML().dump({**params, "reports": {"small": report}}, project.root / "params.yaml")
    project.dvc("repro", "report@small")
    project.commit()
    project.dvc("push", "--with-deps", "report@small")
    assert (tmp_path / "provenlm-store").is_dir()
    shutil.rmtree(project.root / ".dvc/cache")
    second = cloned(project, "second")
    second.dvc("pull", "--with-deps", "report@small")
    assert "Running" not in second.dvc("repro", "report@small")
    verified = subprocess.run(
        [sys.executable, "-m", "provenlm.cli", "verify", "small"],
        cwd=second.root,
        env=second.environment,
        capture_output=True,
        text=True,
    )
    assert verified.returncode == 0, verified.stdout
    output = second.dvc("plots", "show", "--out", str(tmp_path / "plots"))
    assert "ladder_memorise" in Path(output.strip().splitlines()[-1].removeprefix("file://")).read_text()
