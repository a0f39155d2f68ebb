"""Evaluate models of puzzles.

The baselines solve the reported tasks without a model: what they reach, any model should.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from provenlm.core.audit import Check, MetricRecorder
from provenlm.core.errors import DataError
from provenlm.domains.grids.evaluate.palette import draw_content
from provenlm.domains.grids.evaluate.scoring import record_scores
from provenlm.domains.grids.evaluate.size_rules import predict_sizes
from provenlm.domains.grids.evaluate.solutions import ReportedTasks, read_reported_tasks
from provenlm.domains.grids.evaluate.submission import fallback_attempts
from provenlm.domains.grids.tokenize.grid_tokenizer import GridTokenizer
from provenlm.evaluation.confidence import proportion_interval
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec


@dataclass(frozen=True)
class GridsEvalConfig:
    """Configure the evaluation of puzzles; there are no keys."""


def make_probes(config: GridsEvalConfig) -> Mapping[str, Probe]:
    """Return the probes `reported_tasks` and `baselines`."""
    needs = frozenset({"reported_tasks"})
    return {
        "reported_tasks": Probe(
            record_reported_tasks,
            needs,
            {"hidden": Check("== 1", "a solution of a reported task is in the tokens: the score is worthless")},
        ),
        "baselines": Probe(record_baselines, needs, {"size_rules.correct": Check("0..1", "a fraction is from 0 to 1")}),
    }


def load_reported(context: EvalContext) -> ReportedTasks:
    """Read the reported tasks of a corpus. Raises DataError if there are none."""
    if not isinstance(context.tokenizer, GridTokenizer):
        raise DataError(f"tokenizer must be that of domain grids, got a {type(context.tokenizer).__name__}")
    return read_reported_tasks(context.tokenizer)


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
    """Record the size rules and the copied input, which need no model."""
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
    attempts = {task_id: fallback_attempts(puzzle) for task_id, puzzle in tasks.puzzles.items()}
    with metrics.scope("copy") as copy_metrics:
        record_scores(copy_metrics, attempts, tasks.solutions, tasks.duplicated, "the input in the predicted size")


def conditions(config: GridsEvalConfig, context: EvalContext) -> dict[str, str | None]:
    """Return whether the corpus has reported tasks with solutions."""
    has_tasks = isinstance(context.tokenizer, GridTokenizer) and context.tokenizer.folder is not None
    is_solved = has_tasks and load_reported(context).num_outputs > 0
    return {"reported_tasks": None if is_solved else "no task of the corpus is reported with known solutions"}


SPEC = ValidateSpec(GridsEvalConfig, make_probes, conditions, {".svg": draw_content, ".json": lambda content: content})
