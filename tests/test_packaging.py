"""Test that versions, type information and workflows agree with each other."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("provenlm", "stages", "flows")


def pinned_version(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.partition("==")[0] == package)


def test_the_console_script_is_installed():
    assert PROJECT["project"]["scripts"] == {"provenlm": "provenlm.cli.main:main"}
    scripts = metadata.entry_points(group="console_scripts", name="provenlm")
    assert [script.value for script in scripts] == ["provenlm.cli.main:main"]


@pytest.mark.parametrize("package", PACKAGES)
def test_type_information_is_packaged(package):
    assert (ROOT / package / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"][package]


def test_the_version_is_the_latest_of_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[1] == PROJECT["project"]["version"]


def test_the_pre_commit_hooks_use_the_pinned_ruff():
    config = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")
    revisions = {repository["repo"].rpartition("/")[2]: repository.get("rev") for repository in config["repos"]}
    assert revisions["ruff-pre-commit"] == f"v{pinned_version('ruff')}"


def test_the_workflow_runs_on_every_supported_python():
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "provenlm.yml")
    versions = workflow["jobs"]["prove"]["strategy"]["matrix"]["python"]
    first, last = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]).groups()
    assert versions == [f"3.{minor}" for minor in range(int(first), int(last))]
