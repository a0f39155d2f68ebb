"""Build reports and all stages they depend on: `python -m flows.build [NAME …]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows import dvc_runner, terminal
from provenlm.core.config import Params, load_params
from provenlm.core.paths import ProjectPaths

if TYPE_CHECKING:
    from flows.deployed_flows import BuildResult

EXIT_NOT_PASSED = 2
EXIT_CODES = (
    "exit status: 0 built; 1 a stage failed or a setting is wrong; 2 a report did not pass and --require-pass was given; "
    "130, 143 interrupted"
)


def main() -> int:
    """Build the named reports and return the exit status.

    Exit status 0: built; 1: a stage failed or a setting is wrong (one line on standard error); 2: a report did not pass and
    --require-pass was given; 130 or 143: interrupted.
    """
    options = _make_parser().parse_args()

    def command() -> int:
        paths = ProjectPaths(Path.cwd())
        options.names = resolve_reports(options.names, load_params(paths.params_yaml))
        if options.dry_run:
            return _print_plan(options)
        all_passed = _print_result(_run_build(options), options.names, paths)
        return EXIT_NOT_PASSED if options.require_pass and not all_passed else 0

    return terminal.run_cli(command)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.build",
        description="Build reports and all stages they depend on, and print their verdicts. Default: the first report of params.yaml.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="report of params.yaml, or a recipe, which selects the reports that contain it"
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
        choices=dvc_runner.STAGE_NAMES,
        default=dvc_runner.STAGE_NAMES[0],
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
    return parser


def resolve_reports(names: Sequence[str], params: Params) -> list[str]:
    """Return the reports selected by report or recipe names; without names, the first report.

    Raises ConfigError for a name that is neither a report nor a recipe of a report.
    """
    reports = params.tables["reports"]
    if not names:
        return list(reports)[:1]
    report_names: dict[str, None] = {}
    for name in names:
        matches = [name] if name in reports else [report for report in reports if name in params.recipes_of(report)]
        if not matches:
            params.entry("reports", name)
        report_names |= dict.fromkeys(matches)
    return list(report_names)


def _run_build(options: argparse.Namespace) -> "BuildResult":
    wait_until_ready = terminal.connect_to_server()
    from flows import deployed_flows  # imported late: Prefect reads its settings at import, and importing overlaps the server start

    wait_until_ready()
    state = deployed_flows.build(
        options.names, options.overrides, options.start_at, options.jobs, options.max_parallel_train, return_state=True
    )
    return cast("BuildResult", state.result())


def _print_plan(options: argparse.Namespace) -> int:
    """Print which stages would run; a stage behind a changed one runs only if its inputs turn out to change."""
    from flows import worktrees

    root = worktrees.prepare_worktree(Path.cwd(), options.overrides)
    pending: set[str] = set()
    for stage in dvc_runner.plan_stages([f"report@{name}" for name in options.names], root, options.start_at):
        pending_dependencies = pending.intersection(stage.dependencies)
        if stage.changed or pending_dependencies:
            pending.add(stage.address)
        print(
            f"{stage.address:<28} {'runs' if stage.changed else 'runs if its inputs change' if pending_dependencies else 'cached'}"
        )
    return 0


def _print_result(result: "BuildResult", report_names: Sequence[str], paths: ProjectPaths) -> bool:
    """Print stage results, verdicts and page paths; return whether every verdict is PASS."""
    print()
    for stage_result in result.stage_results:
        print(f"{stage_result.address:<28} {stage_result.status:<8} {stage_result.seconds:8.1f} s")
    run_paths = ProjectPaths(result.root)
    statuses = {name: dvc_runner.report_status(name, result.root) for name in report_names}
    for name, status in statuses.items():
        page_paths = " ".join(str(run_paths.report_file(name, ending).relative_to(paths.root)) for ending in ("md", "html"))
        print(f"\n{name}: {status}\n{page_paths}")
    if result.root != paths.root:
        tree = result.root.relative_to(paths.root)
        print(f"\napply it here with `dvc exp apply {tree.name}`; delete its worktree with `git worktree remove --force {tree}`")
    return set(statuses.values()) == {"PASS"}


if __name__ == "__main__":
    sys.exit(main())
