"""Test a recipe of puzzles from sources to report: training on pairs, votes of views, submission and pictures."""

import json
import math
from pathlib import Path

import pytest
from in_process import run_stage
from ruamel.yaml import YAML

from provenlm.core.audit import read_audit
from provenlm.core.examples import read_examples
from provenlm.core.paths import ProjectPaths
from provenlm.domains.grids.content.puzzle import encode_puzzle
from provenlm.domains.grids.evaluate.submission import read_submission
from tests.domains.grids.puzzles import puzzle, random_puzzle, write_folder

ROOT = Path(__file__).resolve().parents[3]
NUM_TASKS = 4
MODEL = {"arch": "grid_transformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TRAIN = {"threads": 1, "seq_len": 64, "global_batch_size": 16, "max_steps": 30, "eval": None, "lr_schedule": {"warmup_steps": 1}}
VALIDATE = {
    "threads": 1,
    "probes": {"color_permutations": 2, "num_examples": 1},
    "overfit_batch": {"num_sequences": 2, "seq_len": 8, "steps": 2},
}
CHECKS = [
    "standard",
    {"r/validate.solving.pass_at_2.outputs": {"expect": "== 1", "hint": "the rule was not learned: more steps"}},
]


def recoloring(seed):
    """Return a task that copies each input, with 5 in place of 0: a colour that outputs alone have, so that no view permutes it."""
    task = json.loads(encode_puzzle(random_puzzle(seed, num_pairs=4)))
    for pair in [*task["train"], *task["test"]]:
        pair["input"] = [[(color + column) % 3 for column, color in enumerate(row)] for row in pair["input"]]
        pair["output"] = [[color or 5 for color in row] for row in pair["input"]]
    return task


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> ProjectPaths:
    root = tmp_path_factory.mktemp("recipe")
    write_folder(root / "tasks", {f"training/{n:08x}": recoloring(n) for n in range(NUM_TASKS + 1)})
    scrape = {"sources": [{"kind": "folder", "path": "tasks"}], "reported_splits": ["training"], "sample": {"num_tasks": NUM_TASKS}}
    corpus = {"domain": "grids", "scrape": scrape, "filter": {}, "dedupe": {"jaccard_threshold": 2.0}, "tokenize": {}}
    recipe = {"corpus": "a", "domain": "grids", "base_model": "none", "model": MODEL, "train": TRAIN, "validate": VALIDATE}
    report = {"title": "Puzzles", "recipes": ["r"], "corpora": ["a"], "checks": CHECKS}
    with (root / "params.yaml").open("w") as file:
        YAML().dump({"corpora": {"a": corpus}, "recipes": {"r": recipe}, "reports": {"p": report}}, file)
    stages = [
        ("scrape", "a"),
        ("filter", "a"),
        ("dedupe", "a"),
        ("tokenize", "a"),
        ("train", "r"),
        ("validate", "r"),
        ("report", "p"),
    ]
    for stage, subject in stages:
        result = run_stage(root, stage, subject)
        assert result.returncode == 0, f"{stage}: {result.stdout}{result.stderr}"
    return ProjectPaths(root)


@pytest.fixture(scope="module")
def audit(project):
    return read_audit(project.audit_json("r", "validate"))


def test_no_probe_fails_and_what_needs_tokens_does_not_apply(audit):
    values = {name: metric.value for name, metric in audit.metrics.items()}
    assert values["eval.failures"] == 0, {name: value for name, value in values.items() if name.endswith(".error")}
    assert "generation" in audit.not_applicable and "solving" not in audit.not_applicable


def test_votes_solve_a_rule_that_the_copied_input_does_not(audit):
    values = {name: metric.value for name, metric in audit.metrics.items()}
    assert values["reported_tasks.tasks"] == values["reported_tasks.outputs"] == NUM_TASKS
    assert values["reported_tasks.hidden"] == 1
    assert values["baselines.copy.pass_at_2.outputs"] == 0
    assert values["solving.pass_at_2.outputs"] >= values["solving.pass_at_1.outputs"] >= 0.5
    assert (values["solving.num_views"], values["solving.leaky_views"], values["solving.submission_faults"]) == (16, 0, 0)
    table = next(table for table in audit.tables if table.name == "solving.tasks")
    assert len(table.rows) == NUM_TASKS


def test_the_submission_is_a_file_beside_the_pictures(project):
    folder = project.samples_dir("r")
    names = {example.name for example in read_examples(folder)}
    assert "submission" in names and names & {"solved-1", "unsolved-1"}
    tasks = json.loads((folder / "submission.json").read_bytes())
    puzzles = {task_id: puzzle(recoloring(int(task_id, 16)), task_id) for task_id in tasks}
    assert len(read_submission(folder / "submission.json", puzzles)) == NUM_TASKS


def test_training_showed_views_that_keep_the_colour_of_outputs(project):
    """All but 0 and 5, which outputs alone have, are permuted."""
    values = {name: metric.value for name, metric in read_audit(project.audit_json("r", "train")).metrics.items()}
    assert values["augmentation.variants"] == 8 * math.factorial(8)
    assert values["augmentation.changed"] > 0.5


def test_the_report_judges_every_check(project):
    values = {name: metric.value for name, metric in read_audit(project.audit_json("p", "report")).metrics.items()}
    assert (values["checks.custom"], values["checks.not_run"]) == (1, 0)
    page = project.report_file("p", "md").read_text()
    assert "solving.pass_at_2.outputs" in page and "solving.pass_at_2.outputs.ci_low" in page


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 48}, id="one thin block"),
        pytest.param({}, id="full size", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_the_recipe_of_the_gpu_size_trains_on_the_cpu(tmp_path, sizes):
    """Its own sections, on a few small tasks and for three steps: the second one is the first that changes all weights."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    recipe = params["recipes"]["arc_large"]
    recipe["model"] |= sizes
    recipe["train"] = {name: value for name, value in recipe["train"].items() if name != "epochs"}
    recipe["train"] |= {
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "global_batch_size": 2,
        "max_steps": 3,
        "lr_schedule": {"warmup_steps": 1},
    }
    write_folder(tmp_path / "tasks", {f"training/{n:08x}": recoloring(n) for n in range(3)})
    corpus = {**params["corpora"]["arc1"], "scrape": {"sources": [{"kind": "folder", "path": "tasks"}]}}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump({"corpora": {"arc1": corpus}, "recipes": {"arc_large": recipe}, "reports": {}}, file)
    for stage, subject in [*((stage, "arc1") for stage in ("scrape", "filter", "dedupe", "tokenize")), ("train", "arc_large")]:
        result = run_stage(tmp_path, stage, subject)
        assert result.returncode == 0, f"{stage}: {result.stdout}{result.stderr}"
    values = {
        name: metric.value for name, metric in read_audit(ProjectPaths(tmp_path).audit_json("arc_large", "train")).metrics.items()
    }
    assert values["steps"] == 3 and values["params.updated_fraction"] == 1
    assert sizes or 75e6 < values["params.total"] < 76e6
