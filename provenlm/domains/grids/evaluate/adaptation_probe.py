"""Measure what training on each task adds to the joint model, and what it costs.

Each task has a worker process of its own with limits of time and memory. Workers get demonstrations and test inputs; solutions stay here.
"""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from provenlm.core.audit import AuditTable, Check, MetricRecorder, PlotSeries
from provenlm.core.examples import Example
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig, FineTuningConfig
from provenlm.domains.grids.evaluate.adaptation.memory_estimate import LLAMA_3_2_1B, count_fine_tuning_memory
from provenlm.domains.grids.evaluate.adaptation.weights_digest import weights_digest
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits
from provenlm.domains.grids.evaluate.budgets.outcome import Status, TaskRow
from provenlm.domains.grids.evaluate.budgets.task_run import RunBudget
from provenlm.domains.grids.evaluate.budgets.worker import TaskFunction
from provenlm.domains.grids.evaluate.config import GridsEvalConfig, TestTimeTrainingConfig
from provenlm.domains.grids.evaluate.palette import draw_attempts
from provenlm.domains.grids.evaluate.scoring import find_solved, record_scores
from provenlm.domains.grids.evaluate.solutions import ReportedTasks, load_reported
from provenlm.domains.grids.evaluate.solve.grid_solver import (
    PRELOADED_MODULES,
    GridSolverConfig,
    GridTask,
    adapter_config,
    load_saved_model,
    save_model,
    solve_grid_task,
)
from provenlm.domains.grids.evaluate.solve.lessons import hide_test_outputs
from provenlm.domains.grids.evaluate.solve.solve_run import JOURNAL_FILE, read_answer, solve_puzzles
from provenlm.domains.grids.evaluate.solving_probe import shown_symmetries, solve_reported, training_pairs
from provenlm.domains.grids.evaluate.submission import NUM_ATTEMPTS, Attempts
from provenlm.evaluation.probe import EvalContext, Probe

PROBE = "test_time_training"
NOT_EVALUATED = "criterion.not_evaluated"  # suffix of a metric that says why a criterion has no value
STATUSES: dict[Status, str] = {
    "ok": "that finished",
    "recovered": "that finished with less memory after an out-of-memory error",
    "oom": "that ran out of memory",
    "timeout": "that ran out of time",
    "killed": "whose worker was killed",
    "error": "whose worker raised an exception",
}
HINTS: dict[Status, str] = {
    "oom": "a task needs more memory than a worker has: see the table of tasks; fewer workers, or a larger budget.memory_bytes",
    "timeout": "a task needs more time than it has: see the table of tasks; fewer steps, or a larger budget",
    "killed": "something killed a worker: see the table of tasks",
    "error": "a worker raised an exception: see the table of tasks",
}
GROUPS = {
    True: "Solved with test-time training only: demonstrations, then each test input above both attempts and the solution",
    False: "Solved by the joint model only: demonstrations, then each test input above both attempts and the solution",
}
LLAMA_TOKENS, LLAMA_TARGETS, LLAMA_RANK = 4096, 512, 64


def adaptation_probe(config: GridsEvalConfig, function: TaskFunction = solve_grid_task) -> Probe:
    """Return the probe `test_time_training`; `function` is what workers run."""
    checks = {
        "criterion.pass_at_2": Check(
            ">= solving.pass_at_2.outputs", "training on each task solves fewer outputs than the joint model: other steps or rates"
        ),
        "trained": Check("> 0", "no task was trained: see method, and the reasons in the table of tasks"),
        "visible_outputs": Check("== 0", "workers got solutions of reported tasks: the score is worthless"),
        "leaky_views": Check("== 0", "a view shows more than the input of its puzzle: its vote proves nothing"),
        "leaks": Check("== 0", "an adapter, or a change of the base, stayed after a task: the next one is not trained on its own"),
        "base_changed": Check("== 0", "a worker, or this process, holds other weights of the base than the trained model"),
        "seconds": Check("<= budget.wall_seconds", "the tasks took longer than the budget of the run"),
        "peak_bytes.max": Check("<= budget.worker_bytes", "a worker used more memory than its part of the budget"),
        **{f"status.{status}": Check("== 0", hint) for status, hint in HINTS.items()},
    }
    needs = frozenset({"reported_tasks", "output_cells", PROBE})
    return Probe(lambda context, metrics: record_adaptation(context, metrics, config, function), needs, checks)


def pretrained_memory_probe() -> Probe:
    """Return the probe `llama_3_2_1b`, which needs no weights."""
    checks = {"trainable": Check("> 0", "no layer of the model takes an adapter: see target_layers.py")}
    return Probe(record_pretrained_memory, frozenset({PROBE}), checks)


def adaptation_condition(config: GridsEvalConfig) -> str | None:
    """Return None if the recipe trains on each task, else the reason."""
    return None if config.test_time_training else "the recipe trains on no single task (validate.probes.test_time_training)"


def settings_of(config: GridsEvalConfig) -> TestTimeTrainingConfig:
    """Return the settings of a recipe that trains on each task."""
    assert config.test_time_training is not None  # the need test_time_training
    return config.test_time_training


def record_adaptation(context: EvalContext, metrics: MetricRecorder, config: GridsEvalConfig, function: TaskFunction) -> None:
    """Record scores, gain over the joint model, and costs of training on each task."""
    settings, tasks = settings_of(config), load_reported(context)
    joint = {task_id: [output.voted for output in outputs] for task_id, outputs in solve_reported(context, tasks, config).items()}
    digest, start = weights_digest(context.model), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(context.model, folder / "model.pt")
        load_model = partial(load_saved_model, folder / "model.pt", str(context.device))
        grid_tasks = make_tasks(tasks, solver_config(context, config), load_model)
        budget = run_budget(settings, context.device.type)
        rows = solve_puzzles(tasks.puzzles, grid_tasks, function, budget, folder, digest, tasks.solutions, PRELOADED_MODULES)
        journal = (folder / JOURNAL_FILE).read_bytes()
    seconds = time.monotonic() - start
    attempts = {task_id: read_answer(row.answer) for task_id, row in rows.items()}
    record_scores(metrics, attempts, tasks.solutions, tasks.duplicated, "votes after test-time training")
    record_gain(metrics, attempts, joint, tasks)
    record_training(metrics, list(rows.values()))
    record_costs(metrics, list(rows.values()), settings, budget, seconds)
    record_leaks(metrics, rows, grid_tasks, digest, weights_digest(context.model))
    record_criterion(metrics, list(rows.values()))
    metrics.tables.append(tasks_table(rows, find_solved(attempts, tasks.solutions, NUM_ATTEMPTS)))
    metrics.series.extend(task_series(list(rows.values())))
    metrics.examples.extend(draw_differences(tasks, attempts, joint, config.num_examples))
    title = "A line of JSON for each task with time, memory, steps, losses, votes and attempts"
    metrics.examples.append(Example("test-time-training", "Test-time training", title, True, 0, {".jsonl": journal}))


def solver_config(context: EvalContext, config: GridsEvalConfig) -> GridSolverConfig:
    """Return how a worker trains and predicts: in the views of the joint training."""
    settings, symmetries = settings_of(config), tuple(shown_symmetries(context))
    rate = settings.peak_learning_rate or FineTuningConfig.learning_rate  # without effect for method none
    return GridSolverConfig(
        adapter_config(settings.method, settings.rank, settings.alpha),
        FineTuningConfig(settings.num_steps, settings.views_per_step, rate),
        num_views=config.color_permutations * len(symmetries),
        symmetries=symmetries,
        permute_colors=config.color_permutations > 1,
        in_place=bool(training_pairs(context).is_in_place.any()),
        seed=context.seed,
    )


def make_tasks(tasks: ReportedTasks, config: GridSolverConfig, load_model: Any) -> dict[str, GridTask]:
    """Return what the workers get: puzzles without their solutions."""
    return {
        task_id: GridTask(hide_test_outputs(puzzle), tasks.task_numbers[task_id], config, load_model)
        for task_id, puzzle in tasks.puzzles.items()
    }


def run_budget(settings: TestTimeTrainingConfig, device: str) -> RunBudget:
    """Return the limits of the run; each worker has its part of the memory."""
    budget = settings.budget
    limits = TaskLimits(budget.task_seconds, None, max(1, budget.memory_bytes // settings.num_workers), device)
    reserve = min(10.0, budget.wall_seconds / 10)
    return RunBudget(budget.wall_seconds, reserve, min(1.0, budget.task_seconds), settings.num_workers, limits)


def record_gain(metrics: MetricRecorder, attempts: Attempts, joint: Attempts, tasks: ReportedTasks) -> None:
    """Record the outputs that training on each task solves newly, and those it loses."""
    after = find_solved(attempts, tasks.solutions, NUM_ATTEMPTS)
    before = find_solved(joint, tasks.solutions, NUM_ATTEMPTS)
    pairs = [pair for task_id in after for pair in zip(before[task_id], after[task_id], strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    metrics.add_count(
        "gain.solved", gained, "outputs", "Test outputs that one of two attempts solves after test-time training only"
    )
    metrics.add_count("gain.lost", lost, "outputs", "Test outputs that one of two attempts of the joint model alone solves")
    text = "pass@2 after test-time training less that of the joint model, on the same test outputs"
    metrics.add_measurement("gain.pass_at_2.outputs", (gained - lost) / len(pairs), "fraction", text)


def record_training(metrics: MetricRecorder, rows: Sequence[TaskRow]) -> None:
    """Record what was trained: parameters, steps, losses and changes of weights."""
    trained = [row for row in rows if is_trained(row)]
    metrics.add_count("tasks", len(rows), "tasks", "Tasks that were given to a worker")
    metrics.add_count("trained", len(trained), "tasks", "Tasks with trainable parameters and at least one step of training")
    moved = sum(row.max_weight_change > 0 for row in trained)
    metrics.add_count("weights_moved", moved, "tasks", "Trained tasks of which a trainable parameter changed")
    fell = sum(last_loss < first_loss for first_loss, last_loss in losses_of(trained))
    metrics.add_count("loss_fell", fell, "tasks", "Trained tasks whose loss of the last step is below that of the first")
    if not trained:
        return
    metrics.add_count("trainable", max(row.num_trainable_params for row in trained), "parameters", "Trainable parameters of a task")
    metrics.add_count("steps.min", min(row.num_steps for row in trained), "steps", "Fewest steps of a trained task")
    metrics.add_count("steps.max", max(row.num_steps for row in trained), "steps", "Most steps of a trained task")
    for place, values in zip(("first", "last"), zip(*losses_of(trained), strict=True), strict=True):
        text = f"Cross-entropy of the {place} step on views of the demonstrations, median over trained tasks"
        metrics.add_measurement(f"loss.{place}", statistics.median(values), "nats/cell", text)


def is_trained(row: TaskRow) -> bool:
    """Return whether a task finished with at least one step on some parameters."""
    return row.num_trainable_params > 0 and row.num_steps > 0


def losses_of(rows: Sequence[TaskRow]) -> list[tuple[float, float]]:
    """Return the losses of the first and the last step of trained tasks."""
    return [(row.first_loss, row.last_loss) for row in rows if row.first_loss is not None and row.last_loss is not None]


def record_costs(
    metrics: MetricRecorder, rows: Sequence[TaskRow], settings: TestTimeTrainingConfig, budget: RunBudget, seconds: float
) -> None:
    """Record statuses, time and memory of tasks beside their limits."""
    counts = Counter(row.status for row in rows)
    for status in get_args(Status):
        metrics.add_count(f"status.{status}", counts[status], "tasks", f"Tasks {STATUSES[status]}")
    metrics.add_count(
        "unenforced_limits",
        sum(bool(row.unenforced_limits) for row in rows),
        "tasks",
        "Tasks with a limit that this system cannot enforce",
    )
    metrics.add_measurement("seconds", round(seconds, 3), "s", "Wall time of all tasks, with the start of their workers")
    values: dict[str, tuple[str, str, list[float]]] = {
        "task_seconds": ("s", "Wall time of a task", [row.wall_seconds for row in rows]),
        "cpu_seconds": ("s", "CPU time of a task's worker", [row.cpu_seconds for row in rows]),
        "peak_bytes": ("bytes", "Peak resident memory of a task's worker, with the libraries", [row.peak_bytes for row in rows]),
    }
    for name, (unit, text, numbers) in values.items():
        metrics.add_measurement(f"{name}.median", statistics.median(numbers), unit, f"{text}: median over tasks")
        metrics.add_measurement(f"{name}.max", max(numbers), unit, f"{text}: largest of all tasks")
    metrics.add_measurement("cpu_seconds.total", sum(values["cpu_seconds"][2]), "s", "CPU time of the workers of all tasks")
    metrics.add_count("budget.wall_seconds", settings.budget.wall_seconds, "s", "Limit of the wall time of all tasks")
    worker_bytes = budget.task.memory_bytes or settings.budget.memory_bytes
    metrics.add_count("budget.worker_bytes", worker_bytes, "bytes", "Limit of what one worker may allocate: its part of the memory")
    metrics.add_count("budget.memory_bytes", settings.budget.memory_bytes, "bytes", "Limit of the memory of all workers")


def record_leaks(
    metrics: MetricRecorder, rows: Mapping[str, TaskRow], grid_tasks: Mapping[str, GridTask], digest: str, digest_after: str
) -> None:
    """Record what must be 0: solutions in workers, leaky votes, traces in the base."""
    visible = sum(pair.output is not None for task in grid_tasks.values() for pair in task.puzzle.test)
    metrics.add_count("visible_outputs", visible, "outputs", "Test outputs of reported tasks that were given to workers")
    leaky = sum(row.num_leaky_views for row in rows.values())
    metrics.add_count("leaky_views", leaky, "views", "Views in workers that show more of a reported task than the input to solve")
    leaks = sum("AdapterLeakError" in row.reason for row in rows.values())
    metrics.add_count("leaks", leaks, "tasks", "Tasks after which the base was not the one from before")
    changed = sum(row.base_digest not in ("", digest) for row in rows.values()) + (digest_after != digest)
    metrics.add_count("base_changed", changed, "tasks", "Tasks that began with other weights than those of the trained model")


def record_criterion(metrics: MetricRecorder, rows: Sequence[TaskRow]) -> None:
    """Record the accuracy as a criterion if training happened, else why not."""
    if reason := find_unmet(rows):
        metrics.add_count(NOT_EVALUATED, reason, "", "Precondition of the criterion that is not met")
        return
    for name, source, unit in (("pass_at_2", "outputs", "test outputs"), ("whole_tasks", "whole_tasks", "whole tasks")):
        value = metrics.metrics[f"pass_at_2.{source}"].value
        text = f"pass@2 of {unit} after training that took place: parameters, steps, changed weights and a lower loss"
        metrics.add_measurement(f"criterion.{name}", value, "fraction", text)


def find_unmet(rows: Sequence[TaskRow]) -> str | None:
    """Return which precondition of a criterion is not met; None if all are."""
    trained = [row for row in rows if is_trained(row)]
    if not any(row.num_trainable_params > 0 for row in rows):
        return "no parameter was trainable"
    if not trained:
        return "no step of training was made"
    if not all(row.max_weight_change > 0 for row in trained):
        return "training changed no weight of a task"
    if sum(last_loss < first_loss for first_loss, last_loss in losses_of(trained)) * 2 <= len(trained):
        return "the loss did not fall in most tasks"
    return None


def tasks_table(rows: Mapping[str, TaskRow], solved: Mapping[str, tuple[bool, ...]]) -> AuditTable:
    """Tabulate what each task did, cost and reached."""
    columns = (
        "task",
        "status",
        "outputs",
        "solved",
        "votes",
        "steps",
        "first loss",
        "last loss",
        "seconds",
        "CPU seconds",
        "peak MB",
        "reason",
    )
    table = [
        (
            task_id,
            row.status,
            len(solved.get(task_id, ())),
            sum(solved.get(task_id, ())),
            min(row.votes, default=0),
            row.num_steps,
            "" if row.first_loss is None else round(row.first_loss, 4),
            "" if row.last_loss is None else round(row.last_loss, 4),
            round(row.wall_seconds, 2),
            round(row.cpu_seconds, 2),
            round(row.peak_bytes / 1e6, 1),
            "; ".join([*row.rungs, *([row.reason] if row.reason else [])]),
        )
        for task_id, row in rows.items()
    ]
    return AuditTable("tasks", "Reported tasks in workers: status, solved test outputs, training, time and memory", columns, table)


def task_series(rows: Sequence[TaskRow]) -> list[PlotSeries]:
    """Return the plots of time and losses of each task, in order of their size."""
    by_cost = sorted(row.cpu_seconds for row in rows)
    losses = sorted(losses_of(rows), reverse=True)
    series = [
        PlotSeries(
            "cost", "line", "CPU time of each task, sorted", "task", "s", list(range(1, len(by_cost) + 1)), {"CPU seconds": by_cost}
        )
    ]
    if losses:
        curves = {place: [pair[index] for pair in losses] for index, place in enumerate(("first step", "last step"))}
        text = "Loss of each task on its demonstrations, sorted by that of the first step"
        series.append(PlotSeries("losses", "line", text, "task", "nats/cell", list(range(1, len(losses) + 1)), curves))
    return series


def draw_differences(tasks: ReportedTasks, attempts: Attempts, joint: Attempts, num_examples: int) -> list[Example]:
    """Draw the tasks that only one of test-time training and joint model solves."""
    solved = [
        {task_id for task_id, flags in find_solved(group, tasks.solutions, NUM_ATTEMPTS).items() if all(flags)}
        for group in (attempts, joint)
    ]
    examples = []
    for is_gained, group in GROUPS.items():
        names = sorted(solved[0] - solved[1] if is_gained else solved[1] - solved[0])[:num_examples]
        for number, task_id in enumerate(names, 1):
            shown = (attempts if is_gained else joint)[task_id]
            picture = draw_attempts(tasks.puzzles[task_id], shown, tasks.solutions[task_id])
            name = f"{'gained' if is_gained else 'lost'}-{number}"
            examples.append(Example(name, group, f"Task {task_id}", True, 0, {".svg": picture}))
    return examples


def record_pretrained_memory(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record parameters and memory of Llama-3.2-1B with adapters, without its weights."""
    adapter = AdapterConfig(rank=LLAMA_RANK)
    for name, recompute in (("step", False), ("recomputing_step", True)):
        counts = count_fine_tuning_memory(LLAMA_3_2_1B, adapter, 1, LLAMA_TOKENS, LLAMA_TARGETS, recompute=recompute)
        if not recompute:
            metrics.add_count("params", counts.num_params, "parameters", "Parameters of Llama-3.2-1B, counted on the meta device")
            text = f"Trainable parameters of Llama-3.2-1B with adapters of rank {LLAMA_RANK} on every linear layer"
            metrics.add_count("trainable", counts.num_trainable_params, "parameters", text)
            metrics.add_count(
                "adapted_layers", counts.num_adapted_layers, "layers", "Linear layers of Llama-3.2-1B with an adapter"
            )
            metrics.add_count(
                "weight_bytes", counts.weight_bytes, "bytes", "Bytes of the weights of Llama-3.2-1B in bfloat16, with adapters"
            )
        text = f"Bytes of tensors of one step on {LLAMA_TOKENS} tokens{', activations computed again' if recompute else ''}: weights, gradients, optimizer and what is kept for gradients"
        metrics.add_estimate(f"{name}_bytes", counts.total_bytes, "bytes", text)
