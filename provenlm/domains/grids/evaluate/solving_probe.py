"""Measure how many of the reported test outputs a model solves, and show them.

Training has seen the demonstrations of the reported tasks and none of their test outputs.
"""

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.core.examples import Example
from provenlm.domains.grids.content.symmetries import NUM_SYMMETRIES
from provenlm.domains.grids.evaluate.config import GridsEvalConfig
from provenlm.domains.grids.evaluate.palette import draw_attempts
from provenlm.domains.grids.evaluate.scoring import find_solved, record_scores
from provenlm.domains.grids.evaluate.solutions import ReportedTasks, load_reported
from provenlm.domains.grids.evaluate.solving import OutputAttempts, solve_puzzle
from provenlm.domains.grids.evaluate.submission import NUM_ATTEMPTS, Attempts, encode_submission, find_submission_faults
from provenlm.domains.grids.tokenize.grid_batches import GridBatch
from provenlm.evaluation.probe import EvalContext, Probe

NUM_TRAINING_PAIRS = 256  # that tell how the recipe shows pairs
GROUPS = {
    True: "Solved tasks: demonstrations, then each test input above both attempts and the solution",
    False: "Unsolved tasks: demonstrations, then each test input above both attempts and the solution",
}


def solving_probe(config: GridsEvalConfig) -> Probe:
    """Return the probe `solving`."""
    return Probe(
        lambda context, metrics: record_solving(context, metrics, config),
        frozenset({"reported_tasks", "output_cells"}),
        {
            "leaky_views": Check("== 0", "a view shows more than the input of its puzzle: its vote proves nothing"),
            "submission_faults": Check("== 0", "the submission is not complete and valid: see find_submission_faults"),
            "pass_at_2.outputs": Check(
                "> baselines.copy.pass_at_2.outputs", "the copied input solves as many outputs: train longer"
            ),
        },
    )


def output_cells_condition(context: EvalContext) -> str | None:
    """Return None if the recipe trains on pairs of grids, else the reason."""
    if isinstance(context.train_batch(1), GridBatch):
        return None
    return "the recipe trains on streams of tokens (train.batches.layout: tokens)"


def record_solving(context: EvalContext, metrics: MetricRecorder, config: GridsEvalConfig) -> None:
    """Record pass@1 and pass@2 of votes of views and of the single view."""
    tasks = load_reported(context)
    results = solve_reported(context, tasks, config)
    voted = {task_id: [output.voted for output in outputs] for task_id, outputs in results.items()}
    single = {task_id: [output.single for output in outputs] for task_id, outputs in results.items()}
    record_scores(metrics, voted, tasks.solutions, tasks.duplicated, "votes of all views")
    with metrics.scope("single_view") as single_metrics:
        record_scores(single_metrics, single, tasks.solutions, tasks.duplicated, "the puzzle as it is")
    metrics.add_count("num_views", config.color_permutations * len(shown_symmetries(context)), "views", "Views of each test input")
    num_leaky = sum(output.num_leaky for outputs in results.values() for output in outputs)
    metrics.add_count("leaky_views", num_leaky, "views", "Views that show more of a reported task than the input to solve")
    submission = encode_submission(tasks.puzzles, voted)
    faults = find_submission_faults(json.loads(submission), tasks.puzzles)
    metrics.add_count("submission_faults", len(faults), "faults", "Faults of submission.json in the format of the ARC Prize")
    solved = find_solved(voted, tasks.solutions, NUM_ATTEMPTS)
    metrics.tables.append(tasks_table(results, solved))
    metrics.examples.extend(draw_examples(tasks, voted, solved, config.num_examples))
    files = {".json": submission}
    metrics.examples.append(Example("submission", "Submission of the ARC Prize", "Two attempts at each output", True, 0, files))


def solve_reported(context: EvalContext, tasks: ReportedTasks, config: GridsEvalConfig) -> dict[str, list[OutputAttempts]]:
    """Return the attempts at each output of each reported task.

    Outputs are laid out, and grids rotated and mirrored, as in training.
    """
    in_place, symmetries = bool(training_pairs(context).is_in_place.any()), shown_symmetries(context)

    def predict(batch: GridBatch) -> Tensor:
        with torch.no_grad():
            logits_BTC: Tensor = context.model(batch.map(lambda tensor: tensor.to(context.device)))
        return logits_BTC.float().log_softmax(-1).cpu()

    num_views = config.color_permutations * len(symmetries)
    return {
        task_id: solve_puzzle(predict, puzzle, tasks.task_numbers[task_id], in_place, num_views, context.seed, symmetries)
        for task_id, puzzle in tasks.puzzles.items()
    }


def training_pairs(context: EvalContext) -> GridBatch:
    """Return the first pairs of the training."""
    batch = context.train_batch(NUM_TRAINING_PAIRS)
    assert isinstance(batch, GridBatch)  # the need output_cells
    return batch


def shown_symmetries(context: EvalContext) -> Sequence[int]:
    """Return the symmetries that training showed: all of them, or the identity."""
    return range(NUM_SYMMETRIES) if training_pairs(context).symmetries_B.any() else (0,)


def tasks_table(results: Mapping[str, Sequence[OutputAttempts]], solved: Mapping[str, tuple[bool, ...]]) -> AuditTable:
    """Tabulate each reported task with known solutions."""
    rows = [
        (task_id, len(flags), sum(flags), min(output.num_votes for output in results[task_id])) for task_id, flags in solved.items()
    ]
    description = "Reported tasks: test outputs, those that one of two attempts solves, and the least votes for a first attempt"
    return AuditTable("tasks", description, ("task", "outputs", "solved", "votes"), rows)


def draw_examples(
    tasks: ReportedTasks, attempts: Attempts, solved: Mapping[str, tuple[bool, ...]], num_examples: int
) -> list[Example]:
    """Draw the first solved and the first unsolved tasks by their ids."""
    examples = []
    for is_solved, group in GROUPS.items():
        names = sorted(task_id for task_id, flags in solved.items() if all(flags) == is_solved)[:num_examples]
        for number, task_id in enumerate(names, 1):
            picture = draw_attempts(tasks.puzzles[task_id], attempts[task_id], tasks.solutions[task_id])
            name = f"{'solved' if is_solved else 'unsolved'}-{number}"
            examples.append(Example(name, group, f"Task {task_id}", True, 0, {".svg": picture}))
    return examples
