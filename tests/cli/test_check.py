"""Test that params.yaml is valid and that one planted error per section is reported."""

import shutil
from pathlib import Path

import pytest

from provenlm.core.config import override_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(tmp_path, monkeypatch, run_cli):
    """Run `provenlm check` on params.yaml with overrides; return exit status and standard error."""

    def run(*overrides, reports=()):
        shutil.copy(ROOT / "params.yaml", tmp_path)
        override_params(tmp_path / "params.yaml", overrides)
        monkeypatch.chdir(tmp_path)
        status, output, errors = run_cli("check", *reports)
        assert output == ""
        return status, errors

    return run


def test_params_yaml_is_valid_and_nothing_is_printed(check):
    assert check() == (0, "")


def test_a_report_is_checked_with_its_recipes_and_corpora_only(check):
    override = "corpora.python_docs.filter=1"
    assert check(override, reports=["ladder"]) == (0, "")
    assert check(override, reports=["docs_verification"])[0] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "corpora.python_docs.scrape.crawl_policy.max_attempts=many",
            "corpora.python_docs.scrape.crawl_policy.max_attempts: must be a whole number",
        ),
        ("corpora.python_docs.filter.least=high", "corpora.python_docs.filter.least: must be a number"),
        ("corpora.twelve_strings.tokenize={}", "corpora.twelve_strings.tokenize: missing key 'held_out'"),
        ("recipes.ladder_memorise.train.checkpoints.every=0", "recipes.ladder_memorise.train.checkpoints: every and last are 0, 2"),
        ("recipes.ladder_memorise.model.arch=mo", "model must be one of gpt, moe, got 'mo'"),
        ("recipes.ladder_memorise.validate.probes={}", "recipes.ladder_memorise.validate.probes: missing key"),
        (
            "recipes.docs_moe.validate.count_only_models.claimed_200m.model={hidden_size: 0}",
            "recipes.docs_moe.validate.count_only_models.claimed_200m.model: hidden_size: must be >= 1, got 0",
        ),
        ("reports.ladder.checks={a: {bound: many, else: b}}", "reports.ladder.checks"),
        ("reports.ladder.recipes=[docs_moe]", "reports.ladder.corpora: must be the corpora of its recipes: [python_docs]"),
    ],
)
def test_a_planted_error_is_reported_in_one_line(check, override, message):
    status, errors = check(override)
    assert status == 1 and message in errors and errors.count("\n") == 1
