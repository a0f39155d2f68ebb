"""Score attempts by exact equality of grids, in the three conventions in use.

`outputs` is the fraction of test outputs solved (Kaggle), `task_mean` the mean over tasks of the fraction of their outputs solved (ARC Prize),
`whole_tasks` the fraction of tasks of which every output is solved. pass@k counts an output as solved if one of its first k attempts equals
the solution.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from provenlm.core import rng
from provenlm.core.audit import MetricRecorder
from provenlm.domains.grids.evaluate.solutions import Solutions
from provenlm.domains.grids.evaluate.submission import NUM_ATTEMPTS, Attempts
from provenlm.evaluation.confidence import ConfidenceInterval, proportion_interval

NUM_RESAMPLES = 2000
CONVENTIONS = {
    "outputs": "fraction of test outputs solved exactly (as on Kaggle)",
    "task_mean": "mean over tasks of the fraction of their test outputs solved exactly (as the ARC Prize reports)",
    "whole_tasks": "fraction of tasks of which every test output is solved exactly",
}


@dataclass(frozen=True)
class PuzzleScore:
    """Hold which test outputs are solved, by task id, and the fractions of them.

    The 95 % intervals are of Wilson (1927) for `outputs` and `whole_tasks` and a bootstrap over tasks for `task_mean`.
    """

    solved: Mapping[str, tuple[bool, ...]]
    outputs: ConfidenceInterval
    task_mean: ConfidenceInterval
    whole_tasks: ConfidenceInterval


def find_solved(attempts: Attempts, solutions: Solutions, num_attempts: int) -> dict[str, tuple[bool, ...]]:
    """Return which outputs one of the first attempts solves, by task id.

    Outputs without a published solution, and tasks that have none, are left out. A missing attempt is wrong.
    """
    solved: dict[str, tuple[bool, ...]] = {}
    for task_id, outputs in solutions.items():
        grids = attempts.get(task_id, ())
        flags = tuple(
            any(np.array_equal(grid, output) for grid in (grids[number] if number < len(grids) else ())[:num_attempts])
            for number, output in enumerate(outputs)
            if output is not None
        )
        if flags:
            solved[task_id] = flags
    return solved


def score_attempts(attempts: Attempts, solutions: Solutions, num_attempts: int = NUM_ATTEMPTS) -> PuzzleScore:
    """Score the first attempts at each output. Raises ValueError without solutions."""
    return summarize_solved(find_solved(attempts, solutions, num_attempts))


def summarize_solved(solved: Mapping[str, tuple[bool, ...]]) -> PuzzleScore:
    """Compute the three fractions and intervals. Raises ValueError without tasks."""
    if not solved:
        raise ValueError("solutions must hold at least one output, got none")
    flags = [flag for group in solved.values() for flag in group]
    fractions = np.array([np.mean(group) for group in solved.values()])
    samples = rng.make_rng(0, "bootstrap over tasks").integers(0, len(fractions), (NUM_RESAMPLES, len(fractions)))
    low, high = np.quantile(fractions[samples].mean(axis=1), (0.025, 0.975))
    return PuzzleScore(
        dict(solved),
        proportion_interval(sum(flags), len(flags)),
        ConfidenceInterval(float(fractions.mean()), float(low), float(high)),
        proportion_interval(sum(all(group) for group in solved.values()), len(solved)),
    )


def record_scores(
    metrics: MetricRecorder, attempts: Attempts, solutions: Solutions, duplicated: frozenset[str], label: str
) -> None:
    """Record pass@1 and pass@2 in the three conventions, with and without duplicates.

    `label` names what attempted in descriptions. `duplicated` tasks share a pair with a task to train on; `.no_duplicates` leaves them out.
    """
    for num_attempts in range(1, NUM_ATTEMPTS + 1):
        solved = find_solved(attempts, solutions, num_attempts)
        rest = {task_id: flags for task_id, flags in solved.items() if task_id not in duplicated}
        for suffix, group, scope in (
            ("", solved, "all reported tasks"),
            (".no_duplicates", rest, "reported tasks without duplicates"),
        ):
            if not group:
                continue
            score = summarize_solved(group)
            for name, description in CONVENTIONS.items():
                interval: ConfidenceInterval = getattr(score, name)
                text = f"pass@{num_attempts} of {label} on {scope}: {description}"
                key = f"pass_at_{num_attempts}.{name}{suffix}"
                metrics.add_measurement(key, interval.value, "fraction", text)
                metrics.add_measurement(
                    f"{key}.ci_low", max(0.0, interval.low), "fraction", f"Lower end of the 95 % interval of {text}"
                )
                metrics.add_measurement(f"{key}.ci_high", interval.high, "fraction", f"Upper end of the 95 % interval of {text}")
