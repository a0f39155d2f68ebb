"""params.yaml as it stands is right, and one planted mistake a section is named."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from provenlm.core import config as parameters

ROOT = Path(__file__).resolve().parents[2]


def run_check(folder, *overrides):
    shutil.copy(ROOT / "params.yaml", folder)
    parameters.override_params(folder / "params.yaml", overrides)
    result = subprocess.run(
        [sys.executable, "-m", "provenlm.cli.check"], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    return result.returncode, result.stdout + result.stderr


def test_params_yaml_as_it_stands_is_right_and_nothing_is_said(tmp_path):
    assert run_check(tmp_path) == (0, "")


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        (
            "corpora.python_docs.scrape.manners.tries=many",
            "corpora.python_docs.scrape.manners.tries: expected a whole number",
        ),
        ("corpora.python_docs.filter.least=high", "corpora.python_docs.filter.least: expected a number"),
        ("corpora.twelve_strings.tokenize={}", "corpora.twelve_strings.tokenize: missing key 'held_out'"),
        ("recipes.ladder_memorise.train.checkpoints.every=0", "recipes.ladder_memorise.train.checkpoints: every and last are 0, 2"),
        ("recipes.ladder_memorise.net.kind=mo", "no net 'mo'"),
        ("recipes.ladder_memorise.validate.probes={}", "recipes.ladder_memorise.validate.probes: missing key"),
        (
            "recipes.docs_moe.validate.also_count.claimed_200m.net={}",
            "recipes.docs_moe.validate.also_count.claimed_200m.net: missing key",
        ),
        ("reports.ladder.bounds={a: {bound: many, else: b}}", "reports.ladder.bounds"),
        ("reports.ladder.recipes=[docs_moe]", "reports.ladder.corpora: must be those of its recipes: [python_docs]"),
    ],
)
def test_a_planted_mistake_is_said_in_one_line(tmp_path, override, answer):
    code, output = run_check(tmp_path, override)
    assert code == 1 and answer in output and output.count("\n") == 1
