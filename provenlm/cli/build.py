"""Build reports and all stages they depend on, and print their verdicts."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows import dvc_runner
from provenlm.cli import console
from provenlm.core.config import load_params
from provenlm.core.paths import ProjectPaths
from provenlm.core.stages import STAGES
from provenlm.scraping.names import check_names

if TYPE_CHECKING:
    from flows.build import BuildResult

EXIT_NOT_PASSED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="report of params.yaml, or a recipe, which selects the reports that contain it (default: the first report)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override a value of params.yaml for this run only, such as recipes.docs_moe.train.max_steps=200; the run uses its own "
        "git worktree and is saved as a DVC experiment (`dvc exp show`)",
    )
    parser.add_argument(
        "--start-at",
        choices=STAGES,
        default=STAGES[0],
        help="first stage to consider; earlier stages are not checked or run",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="maximum number of parallel stages; more than 1 distorts measured speeds"
    )
    parser.add_argument(
        "--max-parallel-train",
        type=int,
        default=1,
        metavar="N",
        help="maximum number of parallel train stages on this machine, within --jobs",
    )
    parser.add_argument("--dry-run", action="store_true", help="print which stages would run, and run none")
    parser.add_argument(
        "--require-pass", action="store_true", help=f"exit with status {EXIT_NOT_PASSED} unless every verdict is PASS"
    )


def main(args: argparse.Namespace) -> int:
    """Build the named reports.

    Return 0, or 2 if a report did not pass and --require-pass was given.
    """
    paths = ProjectPaths(Path.cwd())
    params = load_params(paths.params_yaml)
    check_names(params)
    report_names = dvc_runner.resolve_reports(args.names, params)
    if args.dry_run:
        _print_plan(report_names, args)
        return 0
    all_passed = _print_result(_run_build(report_names, args), report_names, paths)
    return EXIT_NOT_PASSED if args.require_pass and not all_passed else 0


def _run_build(report_names: Sequence[str], args: argparse.Namespace) -> "BuildResult":
    wait_until_ready = console.connect_to_server()
    from flows import build  # imported late: Prefect reads its settings at import, and importing overlaps the server start

    wait_until_ready()
    state = build.build(report_names, args.overrides, args.start_at, args.jobs, args.max_parallel_train, return_state=True)
    return cast("BuildResult", state.result())


def _print_plan(report_names: Sequence[str], args: argparse.Namespace) -> None:
    """Print which stages would run.

    A stage behind a changed one runs only if its inputs turn out to change.
    """
    from flows import worktrees

    root = worktrees.prepare_worktree(Path.cwd(), args.overrides, report_names)
    stages = dvc_runner.plan_stages([f"report@{name}" for name in report_names], root, args.start_at)
    if not args.overrides and any(stage.changed for stage in stages):
        worktrees.check_params(root, report_names)
    pending: set[str] = set()
    for stage in stages:
        pending_dependencies = pending.intersection(stage.dependencies)
        if stage.changed or pending_dependencies:
            pending.add(stage.address)
        print(
            f"{stage.address:<28} {'runs' if stage.changed else 'runs if its inputs change' if pending_dependencies else 'cached'}"
        )


def _print_result(result: "BuildResult", report_names: Sequence[str], paths: ProjectPaths) -> bool:
    """Print stage results, verdicts and page paths.

    Return whether every verdict is PASS.
    """
    print()
    for stage_result in result.stage_results:
        print(f"{stage_result.address:<28} {stage_result.status:<8} {stage_result.seconds:8.1f} s")
    run_paths = ProjectPaths(result.root)
    statuses = {name: dvc_runner.report_status(name, result.root) for name in report_names}
    for name, status in statuses.items():
        page_paths = " ".join(str(run_paths.report_file(name, suffix).relative_to(paths.root)) for suffix in ("md", "html"))
        print(f"\n{name}: {status}\n{page_paths}")
    if result.root != paths.root:
        tree = result.root.relative_to(paths.root)
        print(f"\napply it here with `dvc exp apply {tree.name}`; delete its worktree with `git worktree remove --force {tree}`")
    return set(statuses.values()) == {"PASS"}
