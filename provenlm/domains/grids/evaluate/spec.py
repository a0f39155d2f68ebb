"""Evaluate models of puzzles.

The baselines solve the reported tasks without a model: what they reach, any model should.
"""

from collections.abc import Mapping

from provenlm.core.audit import Check, MetricRecorder
from provenlm.domains.grids.evaluate.adaptation_probe import PROBE, adaptation_condition, adaptation_probe, pretrained_memory_probe
from provenlm.domains.grids.evaluate.config import GridsEvalConfig
from provenlm.domains.grids.evaluate.palette import draw_content
from provenlm.domains.grids.evaluate.scoring import record_scores
from provenlm.domains.grids.evaluate.size_rules import predict_sizes
from provenlm.domains.grids.evaluate.solutions import load_reported
from provenlm.domains.grids.evaluate.solving_probe import output_cells_condition, solving_probe
from provenlm.domains.grids.evaluate.submission import fallback_attempts, most_frequent_attempts
from provenlm.domains.grids.tokenize.grid_tokenizer import GridTokenizer
from provenlm.evaluation.confidence import proportion_interval
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec


def make_probes(config: GridsEvalConfig) -> Mapping[str, Probe]:
    """Return the probes of puzzles by name, in the order in which they run."""
    needs = frozenset({"reported_tasks"})
    return {
        "reported_tasks": Probe(
            record_reported_tasks,
            needs,
            {"hidden": Check("== 1", "a solution of a reported task is in the tokens: the score is worthless")},
        ),
        "baselines": Probe(record_baselines, needs),
        "solving": solving_probe(config),
        PROBE: adaptation_probe(config),
        "llama_3_2_1b": pretrained_memory_probe(),
    }


def record_reported_tasks(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record how many tasks are reported and that their solutions are in no token."""
    tasks = load_reported(context)
    outputs = [pair.output for puzzle in tasks.puzzles.values() for pair in puzzle.test]
    metrics.add_count("tasks", len(tasks.puzzles), "tasks", "Tasks on which results are reported")
    metrics.add_count("outputs", tasks.num_outputs, "outputs", "Test outputs of reported tasks with a known solution")
    metrics.add_count("duplicated", len(tasks.duplicated), "tasks", "Reported tasks that share a pair with a task to train on")
    num_hidden = sum(output is None for output in outputs)
    metrics.add_count(
        "hidden", num_hidden / max(1, len(outputs)), "fraction", "Fraction of reported test outputs absent from the tokens"
    )


def record_baselines(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record the size rules, the copied input and the most frequent colour.

    They need no model.
    """
    tasks = load_reported(context)
    correct = [
        prediction.size == solution.shape
        for task_id, puzzle in tasks.puzzles.items()
        for prediction, solution in zip(predict_sizes(puzzle), tasks.solutions[task_id], strict=True)
        if solution is not None
    ]
    interval = proportion_interval(sum(correct), len(correct))
    description = "fraction of reported test outputs whose size the size rules predict"
    metrics.add_measurement("size_rules.correct", interval.value, "fraction", f"Size rules: {description}")
    metrics.add_measurement(
        "size_rules.correct.ci_low", interval.low, "fraction", f"Lower end of the 95 % interval of the {description}"
    )
    metrics.add_measurement(
        "size_rules.correct.ci_high", interval.high, "fraction", f"Upper end of the 95 % interval of the {description}"
    )
    for name, attempt, label in (
        ("copy", fallback_attempts, "the input in the predicted size"),
        ("most_frequent_color", most_frequent_attempts, "the most frequent colour in the predicted size"),
    ):
        attempts = {task_id: attempt(puzzle) for task_id, puzzle in tasks.puzzles.items()}
        with metrics.scope(name) as scoped:
            record_scores(scoped, attempts, tasks.solutions, tasks.duplicated, label)


def conditions(config: GridsEvalConfig, context: EvalContext) -> dict[str, str | None]:
    """Return what the corpus, the model and the recipe offer to the probes."""
    has_tasks = isinstance(context.tokenizer, GridTokenizer) and context.tokenizer.folder is not None
    is_solved = has_tasks and load_reported(context).num_outputs > 0
    return {
        "reported_tasks": None if is_solved else "no task of the corpus is reported with known solutions",
        "output_cells": output_cells_condition(context),
        PROBE: adaptation_condition(config),
    }


SPEC = ValidateSpec(GridsEvalConfig, make_probes, conditions, {".svg": draw_content, ".json": lambda content: content})
