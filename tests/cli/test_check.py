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
        ("corpora.python_docs.scrape={sources: many}", "corpora.python_docs.scrape.sources: must be a list, got 'many'"),
        ("corpora.python_docs.filter={min_score: high}", "corpora.python_docs.filter.min_score: must be a number, got 'high'"),
        ("corpora.python_docs.filter={least: 1}", "corpora.python_docs.filter: unknown key 'least'; known: "),
        ("corpora.twelve_strings.dedupe={near: 1}", "corpora.twelve_strings.dedupe: unknown key 'near'"),
        ("corpora.twelve_strings.tokenize={val_fraction: 2}", "corpora.twelve_strings.tokenize: val_fraction"),
        ("recipes.ladder_memorise.train.max_steps=0", "recipes.ladder_memorise.train: max_steps must be > 0, got 0"),
        ("recipes.ladder_memorise.train.batches={layout: bars}", "recipes.ladder_memorise.train.batches: unknown key 'layout'"),
        (
            "recipes.music_models/transformer.train.batches={layout: rows}",
            "recipes.music_models/transformer.train.batches.layout: must be one of tokens, bars, got 'rows'",
        ),
        (
            "recipes.ladder_memorise.model.arch=mo",
            "model must be one of gpt, grid_transformer, moe, music_transformer, sequence_vae, got 'mo'",
        ),
        ("recipes.ladder_memorise.validate={probes: {prompt_chars: []}}", "recipes.ladder_memorise.validate.probes: prompt_chars"),
        (
            "recipes.docs_moe.validate={count_only_models: {big: {vocab_size: 9, model: {hidden_size: 0}}}}",
            "recipes.docs_moe.validate.count_only_models.big.model: hidden_size",
        ),
        (
            "recipes.docs_moe.base_model=llama",
            "recipes.docs_moe.base_model: must be none, base/NAME for the folder models/base/NAME, or another recipe: ladder_memorise, ",
        ),
        (
            "recipes.music_models/bach.base_model=base/llama",
            "recipes.music_models/bach.base_model: must be a folder below models/base, got base/llama, which does not exist; there: no",
        ),
        (
            "recipes.music_models/bach.model.hidden_size=64",
            "recipes.music_models/bach.model: must have the shape of its base model music_models/transformer: ",
        ),
        (
            "recipes.music_models/bach.base_model=music_models/vae",
            "must have the shape of its base model music_models/vae: arch must be sequence_vae, got music_transformer",
        ),
        (
            "recipes.docs_moe.train.seq_len=4096",
            "recipes.docs_moe.train.seq_len: must be at most the model's 1024 positions, got 4096",
        ),
        ("recipes.docs_moe.train={max_steps: 30, device: mps}", "recipes.docs_moe.train.device"),
        ("reports.ladder.recipes=[docs_moe]", "reports.ladder.corpora: must be the corpora of its recipes: [python_docs]"),
        ("reports.ladder.checks=null", "reports.ladder.checks: must be 'standard'"),
        ("reports.ladder.checks={a: {expect: many, hint: b}}", "reports.ladder.checks.a: must be a metric id such as"),
        (
            "reports.ladder.checks={ladder_memorise/validate.x: {expect: many, hint: b}}",
            "reports.ladder.checks.ladder_memorise/validate.x.expect: ",
        ),
        (
            'reports.ladder.checks={docs_moe/validate.loss: {expect: "< 1", hint: b}}',
            "reports.ladder.checks.docs_moe/validate.loss: must be a metric of one of twelve_strings/scrape, ",
        ),
        (
            'reports.ladder.checks={ladder_memorise/filter.loss: {expect: "< 1", hint: b}}',
            "reports.ladder.checks.ladder_memorise/filter.loss: must be a metric of one of ",
        ),
        (
            'reports.ladder.checks={ladder_memorise/validate.a: {expect: "< docs_moe/validate.b", hint: b}}',
            "must be a metric of one of twelve_strings/scrape, ",
        ),
        (
            "reports.ladder={title: T, recipes: [ladder_memorise], corpora: [twelve_strings], checks: standard, "
            "schedule: {cron: whenever}}",
            "reports.ladder.schedule: cron: must be null or five fields",
        ),
        (
            "reports.ladder={title: T, recipes: [ladder_memorise], corpora: [twelve_strings], checks: standard, "
            "schedule: {max_regression_bits_per_byte: -1}}",
            "reports.ladder.schedule: max_regression_bits_per_byte: must be >= 0, got -1",
        ),
    ],
)
def test_a_planted_error_is_reported_in_one_line(check, override, message):
    status, errors = check(override)
    assert status == 1 and message in errors and errors.count("\n") == 1


def test_a_report_is_checked_with_the_recipes_of_its_base_models(check):
    report = "reports.ladder={title: T, recipes: [music_models/bach], corpora: [bach], checks: standard}"
    base = "recipes.music_models/transformer.train.max_step=1"
    status, errors = check(report, base, reports=["ladder"])
    assert status == 1 and "recipes.music_models/transformer.train: unknown key 'max_step'" in errors


def test_an_anchor_that_dvc_rejects_is_an_error(tmp_path, monkeypatch, run_cli):
    (tmp_path / "params.yaml").write_text("corpora: &a {}\nrecipes: &a {}\nreports: {}\n")
    monkeypatch.chdir(tmp_path)
    status, _, errors = run_cli("check")
    assert status == 1 and "params.yaml: anchors must be unique" in errors and errors.count("\n") == 1
