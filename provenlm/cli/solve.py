"""Solve ARC tasks with a trained model and write a submission.

The submission is complete and valid before the first task is solved: torch is loaded in worker processes alone, after that.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

from provenlm.core import io
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.domains.grids.content.puzzle import encode_puzzle
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits
from provenlm.domains.grids.evaluate.budgets.outcome import TaskRow
from provenlm.domains.grids.evaluate.budgets.task_run import RunBudget, TaskRun
from provenlm.domains.grids.evaluate.solve.model_folder import FolderSolver, FolderTask, find_solver
from provenlm.domains.grids.evaluate.solve.solve_run import read_answer
from provenlm.domains.grids.evaluate.solve.task_files import TaskFiles, read_task_files
from provenlm.domains.grids.evaluate.submission import NUM_ATTEMPTS, encode_submission, read_submission

RESERVE_FRAC, MAX_RESERVE_SECONDS = 0.1, 30.0  # of the time, for the last task to stop and the submission to be written
METHOD_MODULES = {"lora": ("torch._dynamo", "peft.tuners.lora"), "full": ("torch._dynamo",), "none": ()}  # seconds for each worker
FINISHED = ("ok", "recovered")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "tasks",
        type=Path,
        metavar="TASKS",
        help="challenges file of Kaggle, file with one task, or folder with a file for each task",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=ProjectPaths(Path()).model_dir("arc_joint"),
        metavar="FOLDER",
        help="model of a recipe with arch grid_transformer, or a causal model of Hugging Face with its tokenizer, in a folder "
        "(default: models/arc_joint)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("submission.json"),
        metavar="FILE",
        help="submission to write; a line for each finished task is in the file of the same name that ends in .jsonl, from which the same "
        "command resumes (default: submission.json)",
    )
    parser.add_argument("--minutes", type=float, default=120.0, metavar="X", help="time of the whole run (default: 120)")
    parser.add_argument(
        "--memory-gb", type=float, default=10.0, metavar="X", help="memory of all workers together, on a GPU of it (default: 10)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="tasks to solve at a time, with one thread each (default: one for each core, 1 on a GPU)",
    )
    parser.add_argument("--views", type=int, default=64, metavar="N", help="views of each test input that vote (default: 64)")
    parser.add_argument(
        "--method",
        choices=("lora", "full", "none"),
        default="lora",
        help="what test-time training changes for each task: adapters, all weights, or nothing (default: lora)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the workers (default: cpu)")
    parser.add_argument(
        "--solutions", type=Path, metavar="FILE", help="solutions file of Kaggle: score the submission with it; no worker reads it"
    )


def main(args: argparse.Namespace) -> int:
    """Write the submission and return 0.

    Raises ConfigError for a wrong option, CheckpointError without a model, and DataError without a sound task or if no task was solved.
    """
    budget, solver = make_budget(args), find_solver(args.model)
    files = read_task_files(args.tasks)
    for name, fault in files.faults.items():
        log_line(f"task {name}: refused: {fault}")
    rows = solve_tasks(args, budget, solver, files)
    num_finished = sum(row.status in FINISHED for row in rows.values())
    log_line(f"{args.output.as_posix()}: {len(files.puzzles)} tasks, {num_finished} of them answered by the model")
    if args.solutions is not None:
        print_scores(args, files)
    if not num_finished:
        first = next(iter(rows.values()))
        raise DataError(f"{args.model.as_posix()}: must answer a task, got none; task {first.id}: {first.status}: {first.reason}")
    return 0


def make_budget(args: argparse.Namespace) -> RunBudget:
    """Return the limits of the run. Raises ConfigError for a wrong option."""
    for name in ("minutes", "memory_gb", "workers", "views"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}: must be > 0, got {value}")
    num_workers = args.workers or (1 if args.device == "cuda" else len(os.sched_getaffinity(0)))
    seconds = 60 * args.minutes
    limits = TaskLimits(seconds, memory_bytes=int(args.memory_gb * 1e9 / num_workers), device=args.device)
    return RunBudget(seconds, min(RESERVE_FRAC * seconds, MAX_RESERVE_SECONDS), num_workers=num_workers, task=limits)


def solve_tasks(args: argparse.Namespace, budget: RunBudget, solver: FolderSolver, files: TaskFiles) -> Mapping[str, TaskRow]:
    """Solve every sound task and keep the submission complete meanwhile."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each worker
    tasks = {
        task_id: FolderTask(puzzle, args.model.absolute(), args.views, args.method, args.device)
        for task_id, puzzle in files.sound.items()
    }
    content = [f"{task_id} {encode_puzzle(puzzle).decode()}" for task_id, puzzle in files.puzzles.items()]
    run_key = hashlib.sha256(json.dumps([solver.key, args.views, args.method, content]).encode()).hexdigest()

    def write_results(rows: Mapping[str, TaskRow]) -> None:
        """Write the submission of the rows so far."""
        attempts = {task_id: read_answer(row.answer) for task_id, row in rows.items()}
        io.write_bytes(args.output, encode_submission(files.puzzles, attempts))

    run = TaskRun(
        solver.function,
        budget,
        args.output.with_suffix(".jsonl"),
        run_key,
        write_results,
        preloaded_modules=(*solver.preloaded_modules, *METHOD_MODULES[args.method]),
    )
    start_fork_server()
    return run.run(tasks)


def start_fork_server() -> None:
    """Start the process that workers are forked from, deaf to Ctrl-C.

    It would print a traceback if Ctrl-C came while it imports; workers end with this process.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        forkserver.ensure_running()
        signal.signal(signal.SIGINT, handler)


def print_scores(args: argparse.Namespace, files: TaskFiles) -> None:
    """Print pass@1 and pass@2 of the submission in the three conventions.

    Raises DataError if the file holds no solution of a task.
    """
    from provenlm.domains.grids.evaluate.scoring import CONVENTIONS, score_attempts  # torch
    from provenlm.domains.grids.evaluate.solutions import read_solutions

    attempts = read_submission(args.output, files.puzzles)
    solutions = {task_id: grids for task_id, grids in read_solutions(args.solutions).items() if task_id in files.puzzles}
    if not any(grid is not None for grids in solutions.values() for grid in grids):
        raise DataError(f"{args.solutions.as_posix()}: must hold the solution of a task of {args.tasks.as_posix()}, got none")
    for num_attempts in range(1, NUM_ATTEMPTS + 1):
        score = score_attempts(attempts, solutions, num_attempts)
        for name, description in CONVENTIONS.items():
            interval = getattr(score, name)
            log_line(
                f"pass@{num_attempts}: {interval.value:.3f} ({max(0.0, interval.low):.3f} to {interval.high:.3f}), {description}"
            )
