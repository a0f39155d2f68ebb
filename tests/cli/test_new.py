"""Test `provenlm new`: what it recognises, what it writes, and what it refuses."""

import json
import math
import shutil
from pathlib import Path

import pytest

from provenlm.cli import check
from provenlm.cli.starter import entries, sample, time_budget, trial
from provenlm.cli.starter.sources import detect_source
from provenlm.core.config import load_params
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.paths import ProjectPaths

ROOT = Path(__file__).resolve().parents[2]
TASK = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}], "test": [{"input": [[3, 4]], "output": [[4, 3]]}]}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Copy the settings of the project and work there."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def documents(project):
    """Copy the documents of the project into a folder with a name of two words."""
    folder = project / "my docs"
    folder.mkdir()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    (folder / "style.css").write_text("p { color: red }\n" * 20, encoding="utf-8")
    return folder


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "argument", "domain", "section"),
    [
        ({"d/a.txt": "x" * 99, "d/b.css": "y"}, "d", "text", {"kind": "folder", "path": "d", "exclude": ["**/*.css"]}),
        ({"d/a.py": "x", "d/b.js": "y"}, "d", "text", {"kind": "folder", "path": "d"}),
        ({"d/a.mid": "x", "d/b.abc": "y", "d/readme.txt": "z"}, "d", "music", {"kind": "folder", "path": "d"}),
        ({"d/a.json": json.dumps(TASK)}, "d", "grids", {"kind": "folder", "path": "d"}),
        ({"d/a.jsonl": "{}", "d/b.jsonl": "{}"}, "d", "text", {"kind": "jsonl", "files": ["d/**/*.jsonl"]}),
        ({"d/.git/HEAD": "x", "d/a.md": "y"}, "d", "text", {"kind": "git", "url": "d"}),
        ({"a.jsonl.gz": "x"}, "a.jsonl.gz", "text", {"kind": "jsonl", "files": ["a.jsonl.gz"]}),
        ({"a.json": json.dumps(TASK)}, "a.json", "grids", {"kind": "folder", "path": ".", "include": ["a.json"]}),
        (
            {"x_challenges.json": json.dumps({"t": TASK})},
            "x_challenges.json",
            "grids",
            {"kind": "kaggle", "challenges": "x_challenges.json"},
        ),
        ({"a.warc.gz": "x"}, "a.warc.gz", "text", {"kind": "warc", "files": ["a.warc.gz"]}),
        ({"a.mid": "x"}, "a.mid", "music", {"kind": "folder", "path": ".", "include": ["a.mid"]}),
        ({}, "https://example.org/repo.git", "text", {"kind": "git", "url": "https://example.org/repo.git"}),
        ({}, "https://example.org/feed.xml", "text", {"kind": "feed", "start_urls": ["https://example.org/feed.xml"]}),
        ({}, "https://example.org/docs/", "text", {"kind": "site", "start_urls": ["https://example.org/docs/"]}),
        ({}, "s3://bucket/rows.parquet", "text", {"kind": "parquet", "files": ["s3://bucket/rows.parquet"]}),
    ],
)
def test_a_source_is_recognised(files, argument, domain, section, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        write(tmp_path, name, text)
    found = detect_source(argument)
    assert (found.domain, dict(found.section)) == (domain, section)


def test_new_writes_entries_that_check_accepts(documents, run_cli, monkeypatch):
    monkeypatch.setattr(trial, "TRIAL_SECONDS", 0.3)
    status, output, errors = run_cli("new", "mine", "my docs", "--minutes", "0.2", "--license", "CC0-1.0")
    assert status == 0, errors
    params = load_params(Path("params.yaml"))
    corpus, recipe = params.entry("corpora", "mine_data"), params.entry("recipes", "mine_model")
    assert corpus["scrape"]["sources"] == [{"kind": "folder", "path": "my docs", "exclude": ["**/*.css"], "license": "CC0-1.0"}]
    assert recipe["train"]["max_steps"] >= time_budget.MIN_STEPS and recipe["validate"]["generation"]["prompts"]
    check.check_corpus(params, "mine_data")
    check.check_recipe(params, "mine_model", ProjectPaths(Path.cwd()))
    check.check_report(params, "mine")
    before, after = (ROOT / "params.yaml").read_text().splitlines(), Path("params.yaml").read_text().splitlines()
    added = list(after)
    for line in before:
        added.remove(line)
    assert len([line for line in added if line.strip()]) <= 3 * 15
    assert "measured here" in output and "provenlm build mine" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine", "nowhere"], "nowhere: no such file or folder; a source is a folder, a file, a git repository or a URL"),
        (["ladder", "my docs"], "ladder: params.yaml has this name in reports; choose another NAME"),
        (["a b", "my docs"], "params.yaml: corpora: a name must be"),
        (["mine", "my docs", "--minutes", "nan"], "--minutes: must be 0.1 to 100000, got nan"),
        (["mine", "https://example.org/"], "--contact: must be a URL or e-mail address"),
        (["mine", "my docs", "a.mid"], "sources must be of one domain, got my docs is text, a.mid is music"),
    ],
)
def test_a_wrong_request_is_one_line_and_changes_nothing(words, message, documents, run_cli):
    write(documents.parent, "a.mid", "x")
    before = Path("params.yaml").read_bytes()
    status, _, errors = run_cli("new", *words)
    assert status == 1 and errors.startswith(f"provenlm new: {message}") and errors.count("\n") == 1
    assert Path("params.yaml").read_bytes() == before


def test_too_little_text_is_refused_with_its_size(project, run_cli):
    write(project, "small/a.md", (ROOT / "docs/concepts.md").read_text(encoding="utf-8")[:8000])
    status, _, errors = run_cli("new", "mine", "small")
    assert status == 1 and "bytes of text after the filter" in errors and f"at least {sample.MIN_TEXT_BYTES:,}" in errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("corpora:\n  a: 1\n\nrecipes: {}\n", "corpora:\n  a: 1\n\n  new: 2\n\nrecipes: {}\n"),
        ("corpora: {}\nrecipes: {}\n", "corpora:\n  new: 2\nrecipes: {}\n"),
        ("corpora:\n  a: 1", "corpora:\n  a: 1\n\n  new: 2\n"),
        ("corpora:\n  a: 1\n# about recipes\nrecipes:\n", "corpora:\n  a: 1\n\n  new: 2\n# about recipes\nrecipes:\n"),
    ],
)
def test_an_entry_is_added_at_the_end_of_its_table(text, expected):
    assert entries._append(text, "corpora", "  new: 2\n") == expected


def test_an_entry_that_cannot_be_read_is_not_written(project):
    before = Path("params.yaml").read_bytes()
    with pytest.raises(ConfigError):
        entries.add_entries(Path("params.yaml"), {"reports": "  bad: {title: x}\n"})
    assert Path("params.yaml").read_bytes() == before and not list(project.glob(".new-*"))


def test_repeated_tokens_are_worth_less_than_new_ones():
    assert time_budget.effective_tokens(50, 100) == 50
    assert 360 < time_budget.effective_tokens(400, 100) < 400
    assert time_budget.effective_tokens(1e9, 100) == pytest.approx(100 * (1 + time_budget.REPEAT_VALUE))


def test_more_minutes_choose_a_larger_model_and_little_text_ends_early():
    rates = {shape: 5e9 / (shape[0] ** 2 * shape[1] * 100) for shape in time_budget.SHAPES}
    params = {shape: shape[0] ** 2 * shape[1] * 12 + 1024 * shape[0] for shape in time_budget.SHAPES}
    few, many = (time_budget.choose_shape(seconds, 1e8, rates, params) for seconds in (60, 3600))
    assert params[few] < params[many]
    assert time_budget.choose_shape(3600, 1e5, rates, params) != many
    plan = time_budget.plan_steps(10, 0.1, 4096, 50_000)
    assert plan.epochs <= time_budget.MAX_EPOCHS and plan.minutes < 10 and plan.dropout > 0
    assert time_budget.plan_steps(10, 0.1, 4096, 50_000, math.inf).minutes == pytest.approx(10, rel=0.01)


def test_plan_for_a_corpus_that_is_not_tokenized_says_what_to_do(project, run_cli):
    status, _, errors = run_cli("plan", "--corpus", "python_docs")
    assert status == 1 and "dvc repro tokenize@python_docs" in errors
    with pytest.raises(DataError):
        sample.tokenized_corpus("text", project / "nothing", "python_docs")


def test_a_source_that_the_filter_drops_is_refused_with_the_reasons(project, run_cli):
    write(project, "noise/a.txt", "zq " * 40_000)
    status, _, errors = run_cli("new", "mine", "noise")
    assert status == 1 and "the filter drops every record of the sample: " in errors
