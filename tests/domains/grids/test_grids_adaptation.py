"""Test training on one puzzle and what the probe records of it; planted leaks and violated limits are each caught."""

import json
import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.domains.grids.content.puzzle import encode_puzzle
from provenlm.domains.grids.evaluate import adaptation_probe, config
from provenlm.domains.grids.evaluate.adaptation.adapted_model import AdapterLeakError, inject_adapters
from provenlm.domains.grids.evaluate.adaptation.weights_digest import weights_digest
from provenlm.domains.grids.evaluate.budgets.outcome import TaskRow
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel
from provenlm.domains.grids.evaluate.config import GridsEvalConfig
from provenlm.domains.grids.evaluate.solve import grid_solver
from provenlm.domains.grids.evaluate.solve.grid_solver import GridLessons, GridSolverConfig, GridTask, solve_grid_task
from provenlm.domains.grids.evaluate.spec import SPEC
from provenlm.domains.grids.scrape.spec import FolderSource
from provenlm.domains.grids.tokenize.grid_batches import IGNORE, grid_sequences
from provenlm.domains.grids.tokenize.grid_tokenizer import load_grid_tokenizer
from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.model import VOCAB_SIZE, build_grid_transformer
from provenlm.reporting.thresholds import parse_threshold
from tests.contexts import make_untrained_context
from tests.domains.grids.grid_task_functions import KINDS, carry_over, misbehave
from tests.domains.grids.puzzles import FLIP, make_dataset, puzzle, random_puzzle, scrape, write_folder

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ROW = TaskRow("a", "key", "ok", num_trainable_params=2, num_steps=3, first_loss=2.0, last_loss=1.0, max_weight_change=0.1)
METHODS = ("lora", "full")


def build_model(num_tasks=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_grid_transformer(GridTransformerConfig(**SIZES, num_tasks=num_tasks), VOCAB_SIZE)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, 0.0, 0.1)  # layers that write into the residual stream begin at zero
    return model.eval()


def solver_config(method, **fields):
    rate = {"lora": 2e-2, "full": 1e-2, "none": 1e-2}[method]
    tuning = grid_solver.FineTuningConfig(num_steps=8, batch_size=4, learning_rate=rate)
    return GridSolverConfig(grid_solver.adapter_config(method, 4, 8.0), tuning, num_views=8, **fields)


@pytest.fixture
def channel():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    channel = TaskChannel(sender, time.monotonic() + 3600)
    channel.receiver = receiver
    return channel


@pytest.mark.parametrize("method", METHODS)
def test_training_on_a_puzzle_lowers_its_loss_and_gives_the_base_back(channel, method):
    model = build_model()
    digest = weights_digest(model)
    outcome = solve_grid_task(GridTask(puzzle(FLIP), 1, solver_config(method), lambda: model), channel)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    adapters = 4 * (4 * 32 + 3 * 32)  # of rank 4 on seven square layers
    assert outcome.num_trainable_params == {"full": num_params, "lora": adapters + model.embed_tasks.weight.numel()}[method]
    assert outcome.num_steps == 8 and outcome.last_loss < outcome.first_loss and outcome.max_weight_change > 0
    assert len(outcome.answer[0]) == 2 and outcome.votes[0] >= 1 and outcome.num_leaky_views == 0
    assert outcome.base_digest == digest == weights_digest(model)


def test_without_training_the_answer_is_that_of_the_base(channel):
    model = build_model()
    base = solve_grid_task(GridTask(puzzle(FLIP), 1, solver_config("none"), lambda: model), channel)
    assert (base.num_trainable_params, base.num_steps, base.max_weight_change) == (0, 0, 0.0)
    trained = solve_grid_task(GridTask(puzzle(FLIP), 1, solver_config("full"), lambda: model), channel)
    sent = [channel.receiver.recv()[1] for _ in range(3)]  # two fallbacks, and the base before its training
    assert sent[2].answer == base.answer and sent[0] == sent[1] != base
    assert trained.num_steps == 8


def test_a_visible_solution_changes_nothing(channel):
    hidden = {**FLIP, "test": [{"input": FLIP["test"][0]["input"]}]}
    wrong = {**FLIP, "test": [{**FLIP["test"][0], "output": [[7, 7], [7, 7]]}]}
    outcomes = [solve_grid_task(GridTask(puzzle(task), 1, solver_config("full"), build_model), channel) for task in (hidden, wrong)]
    assert outcomes[0] == outcomes[1]


def test_lessons_are_the_demonstrations_in_turn_in_other_views():
    item = puzzle(FLIP)
    lessons = GridLessons(item, 3, solver_config("full", symmetries=(0,), permute_colors=False))
    batch = lessons.batch([0, 1, 2])
    assert len(lessons) == 32 and batch.tasks_B.tolist() == [3, 3, 3]
    assert batch.inputs_BT[0].tolist() == [1, 2, 0, 0, 0, 3] and batch.targets_BT[0].tolist() == [0, 2, 1, 3, 0, 0]
    assert batch.targets_BT[1].tolist() == [0, 4, *[IGNORE] * 4]
    shown = GridLessons(item, 3, solver_config("full")).batch(range(0, 32, 2))
    assert len(set(shown.symmetries_B.tolist())) > 4 and len({tuple(row) for row in shown.inputs_BT.tolist()}) > 8
    assert (shown.inputs_BT == 0).sum(1).tolist() == [3] * 16, "0 keeps its place among the colours"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([ROW], None),
        ([ROW, replace(ROW, status="oom", num_trainable_params=0, num_steps=0)], None),
        ([replace(ROW, num_trainable_params=0)], "no parameter was trainable"),
        ([replace(ROW, num_steps=0)], "no step of training was made"),
        ([ROW, replace(ROW, max_weight_change=0.0)], "training changed no weight of a task"),
        ([ROW, replace(ROW, last_loss=2.0)], "the loss did not fall in most tasks"),
    ],
)
def test_a_criterion_needs_training_that_took_place(rows, reason):
    metrics = MetricRecorder()
    metrics.add_measurement("pass_at_2.outputs", 0.5, "fraction", "pass@2")
    metrics.add_measurement("pass_at_2.whole_tasks", 0.25, "fraction", "pass@2")
    adaptation_probe.record_criterion(metrics, rows)
    values = {name: metric.value for name, metric in metrics.metrics.items()}
    assert values.get("criterion.not_evaluated") == reason
    assert (values.get("criterion.pass_at_2"), values.get("criterion.whole_tasks")) == ((None, None) if reason else (0.5, 0.25))


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A corpus of six reported tasks, a model without training, and a training that shows symmetries."""
    root = tmp_path_factory.mktemp("adaptation")
    write_folder(root / "tasks", {f"evaluation/{n:08x}": json.loads(encode_puzzle(random_puzzle(n))) for n in range(len(KINDS))})
    records = [result.record for result in scrape(FolderSource("folder", str(root / "tasks")))]
    dataset, _ = make_dataset(records, root / "tokens")
    batch = grid_sequences(dataset.train, dataset, 64, in_place=True).get_batch(np.arange(4))
    shown = replace(batch, symmetries_B=torch.arange(4))
    tokenizer = load_grid_tokenizer(root / "tokens" / "tokenizer")
    return make_untrained_context(build_model(), tokenizer, dataset, 64, train_batch=lambda num_sequences: shown)


def run_probe(context, function, monkeypatch, **fields):
    """Run the probe with few steps; return its values, tables and examples, and the checks that do not hold."""
    monkeypatch.setattr(adaptation_probe, "PRELOADED_MODULES", ("provenlm.domains.grids.evaluate.solve.grid_solver",))
    settings = config.TestTimeTrainingConfig(num_steps=2, views_per_step=2, **{"method": "full", "num_workers": 1, **fields})
    probes_config = GridsEvalConfig(color_permutations=1, test_time_training=settings)
    assert set(SPEC.conditions(probes_config, context).values()) == {None}
    metrics, probe = MetricRecorder(), adaptation_probe.adaptation_probe(probes_config, function)
    probe.run(context, metrics)
    values = {name: metric.value for name, metric in metrics.metrics.items()}
    return values, metrics, failed_checks(metrics, probe)


def failed_checks(metrics, probe):
    """Return the checks of recorded metrics that do not hold."""
    values = {"solving.pass_at_2.outputs": 0.0, **{name: metric.value for name, metric in metrics.metrics.items()}}
    numbers = {f"r/v.{name}": value for name, value in values.items()}
    return {
        name
        for name, check in probe.checks.items()
        if name in values and not parse_threshold(check.expect, "", "", "r/v.{}".format).holds(values[name], numbers)
    }


def show_first_tasks(number, monkeypatch):
    """Let the probe see the first tasks alone."""
    load_reported = adaptation_probe.load_reported

    def load_first(context):
        tasks = load_reported(context)
        names = sorted(tasks.puzzles)[:number]
        return replace(tasks, puzzles={n: tasks.puzzles[n] for n in names}, solutions={n: tasks.solutions[n] for n in names})

    monkeypatch.setattr(adaptation_probe, "load_reported", load_first)


def test_the_probe_records_scores_costs_and_a_line_for_each_task(context, monkeypatch):
    show_first_tasks(2, monkeypatch)
    values, metrics, failed = run_probe(context, solve_grid_task, monkeypatch)
    assert failed == set(), metrics.tables[0].rows
    assert values["status.ok"] == values["trained"] == values["weights_moved"] == 2
    assert (values["steps.min"], values["steps.max"], values["trainable"]) == (
        2,
        2,
        sum(p.numel() for p in context.model.parameters()),
    )
    assert values["cpu_seconds.total"] > 0 and values["peak_bytes.max"] >= values["peak_bytes.median"] > 10**7
    assert {"pass_at_1.task_mean", "pass_at_2.outputs.ci_low", "pass_at_2.whole_tasks", "gain.solved", "gain.lost"} <= values.keys()
    rows = [json.loads(line) for line in metrics.examples[-1].files[".jsonl"].splitlines()]
    assert [row["id"] for row in rows] == [f"{n:08x}" for n in range(2)] and {len(row["answer"][0]) for row in rows} == {2}
    assert [series.name for series in metrics.series] == ["cost", "losses"] and len(metrics.tables[0].rows) == 2


def test_every_violation_of_a_limit_and_every_leak_fails_a_check(context, monkeypatch):
    """One task hangs, one allocates too much, one raises, one leaves an adapter, one starts from other weights, one has a leaky vote."""
    budget = config.TestTimeBudgetConfig(task_seconds=2.0, memory_bytes=500 * 10**6)
    values, metrics, failed = run_probe(context, misbehave, monkeypatch, budget=budget)
    assert failed == {"status.timeout", "status.oom", "status.error", "leaks", "base_changed", "leaky_views"}
    assert (values["status.timeout"], values["status.oom"], values["status.error"], values["status.ok"]) == (1, 1, 2, 2)
    reasons = [row[-1] for row in metrics.tables[0].rows]
    assert reasons[0] == "wall time must be <= 2.0 s" and reasons[1].startswith("MemoryError") and "planted" in reasons[2]


def test_a_worker_that_changes_the_model_of_the_next_task_is_caught(context, monkeypatch):
    show_first_tasks(2, monkeypatch)
    values, _, failed = run_probe(context, carry_over, monkeypatch)
    assert failed == {"base_changed"} and values["base_changed"] == 1


def test_an_adapter_that_carries_over_is_caught(channel):
    model = build_model()
    inject_adapters(model, grid_solver.adapter_config("lora", 2, 2.0))
    with pytest.raises(AdapterLeakError, match="must be free of adapters before a task"):
        solve_grid_task(GridTask(puzzle(FLIP), 1, solver_config("lora"), lambda: model), channel)


def test_a_planted_solution_in_a_worker_fails_its_check(context, monkeypatch):
    tasks = adaptation_probe.load_reported(context)
    hidden = adaptation_probe.make_tasks(tasks, GridSolverConfig(), build_model)
    monkeypatch.setattr(adaptation_probe, "hide_test_outputs", lambda item: replace(item, test=item.train[:1]))
    visible = adaptation_probe.make_tasks(tasks, GridSolverConfig(), build_model)
    counts = []
    for grid_tasks in (hidden, visible):
        metrics = MetricRecorder()
        adaptation_probe.record_leaks(metrics, {}, grid_tasks, "digest", "digest")
        counts.append(metrics.metrics["visible_outputs"].value)
    assert counts == [0, 6]


@pytest.mark.parametrize(
    ("seconds", "peak_bytes", "expected"),
    [(7201.0, 1, {"seconds"}), (7199.0, 6 * 10**9, {"peak_bytes.max"}), (7199.0, 10**9, set())],
)
def test_a_run_beyond_its_time_or_memory_fails_a_check(seconds, peak_bytes, expected):
    """The budget is that of the recipe: two hours, and 10 GB for two workers."""
    settings, metrics = config.TestTimeTrainingConfig(), MetricRecorder()
    rows = [replace(ROW, peak_bytes=peak_bytes)]
    adaptation_probe.record_costs(metrics, rows, settings, adaptation_probe.run_budget(settings, "cpu"), seconds)
    assert failed_checks(metrics, adaptation_probe.adaptation_probe(GridsEvalConfig())) == expected


def test_gains_and_losses_are_counted_and_drawn(context):
    tasks = adaptation_probe.load_reported(context)
    right = {task_id: [[solution] for solution in outputs] for task_id, outputs in tasks.solutions.items()}
    wrong = {task_id: [] for task_id in right}
    names = sorted(right)
    after = {**right, names[0]: wrong[names[0]]}
    joint = {**right, names[1]: wrong[names[1]], names[2]: wrong[names[2]]}
    metrics = MetricRecorder()
    adaptation_probe.record_gain(metrics, after, joint, tasks)
    values = {name: metric.value for name, metric in metrics.metrics.items()}
    assert (values["gain.solved"], values["gain.lost"], values["gain.pass_at_2.outputs"]) == (2, 1, pytest.approx(1 / 6))
    assert [example.name for example in adaptation_probe.draw_differences(tasks, after, joint, 1)] == ["gained-1", "lost-1"]


def test_the_memory_of_a_pretrained_model_is_counted_without_its_weights(context, monkeypatch):
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128, "num_attention_heads": 4}
    shape = {**adaptation_probe.LLAMA_3_2_1B, **small, "num_key_value_heads": 2, "head_dim": 16}
    monkeypatch.setattr(adaptation_probe, "LLAMA_3_2_1B", shape)
    metrics = MetricRecorder()
    adaptation_probe.pretrained_memory_probe().run(context, metrics)
    values = {name: metric.value for name, metric in metrics.metrics.items()}
    assert values["trainable"] == 64 * 2 * (2 * 128 + 2 * 96 + 3 * 192) and values["adapted_layers"] == 14
    assert values["recomputing_step_bytes"] < values["step_bytes"]


def test_a_recipe_without_test_time_training_says_so(context):
    reason = SPEC.conditions(GridsEvalConfig(), context)["test_time_training"]
    assert reason == "the recipe trains on no single task (validate.probes.test_time_training)"
    assert "test_time_training" in SPEC.probes(GridsEvalConfig())["llama_3_2_1b"].needs


@pytest.mark.parametrize("name", ["rank", "num_steps", "views_per_step", "num_workers", "alpha", "learning_rate"])
def test_a_setting_that_cannot_work_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >"):
        config.TestTimeTrainingConfig(**{name: 0})
    with pytest.raises(ValueError, match="task_seconds must be > 0, got 0"):
        config.TestTimeBudgetConfig(task_seconds=0)


def test_the_learning_rate_follows_the_method():
    rates = [config.TestTimeTrainingConfig(method=method).peak_learning_rate for method in METHODS]
    assert rates == [2e-3, 5e-4] and config.TestTimeTrainingConfig(learning_rate=1e-2).peak_learning_rate == 1e-2
