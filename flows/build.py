"""Names of reports in; everything they rest on built, their verdicts and pages out: `python -m flows.build [NAME …]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows import dvc_runner, terminal
from provenlm.core import config as parameters
from provenlm.core.paths import ProjectPaths

if TYPE_CHECKING:
    from flows.deployed_flows import BuildResult

EXIT_NOT_PASSED = 2


def main() -> int:
    """Exit status 0: built; 1: a stage or a setting is wrong, said in one line; 2: see --require-pass; 130, 143: interrupted."""
    options = _make_parser().parse_args()

    def command() -> int:
        layout = ProjectPaths(Path.cwd())
        options.names = resolve_reports(options.names, parameters.load_params(layout.params_yaml))
        if options.dry_run:
            return _print_plan(options)
        all_passed = _print_result(_run_build(options), options.names, layout)
        return EXIT_NOT_PASSED if options.require_pass and not all_passed else 0

    return terminal.run_cli(command)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.build",
        description="Build reports and everything they rest on, and print their verdicts. Without a name: the first report of params.yaml.",
        epilog=main.__doc__,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a report of params.yaml, or a recipe, which stands for its reports"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="a value of params.yaml for this run alone, such as recipes.docs_moe.train.steps=200; it runs in a checkout of its own, "
        "and `dvc exp show` lists the result",
    )
    parser.add_argument(
        "--from",
        choices=dvc_runner.STAGE_NAMES,
        default=dvc_runner.STAGE_NAMES[0],
        dest="begin",
        help="leave as it is what stands before",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="stages side by side; speeds measured so depend on their neighbours"
    )
    parser.add_argument(
        "--trainings", type=int, default=1, metavar="N", help="trainings at once on this machine, if --jobs allows it"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say which stages would run")
    parser.add_argument("--require-pass", action="store_true", help=f"exit with {EXIT_NOT_PASSED} unless every verdict is PASS")
    return parser


def resolve_reports(names: Sequence[str], params: parameters.Params) -> list[str]:
    """The reports that `names` mean, without names the first one. ProvenlmError for a name that is neither report nor recipe of one."""
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
    from flows import deployed_flows  # Prefect reads its settings at import, and takes a second: that of the server's start

    wait_until_ready()
    state = deployed_flows.build(
        options.names, options.overrides, options.begin, options.jobs, options.trainings, return_state=True
    )
    return cast("BuildResult", state.result())


def _print_plan(options: argparse.Namespace) -> int:
    """A stage runs if it changed; one behind it may turn out to be unchanged when its turn comes."""
    from flows import worktrees

    root = worktrees.prepare_worktree(Path.cwd(), options.overrides)
    pending: set[str] = set()
    for step in dvc_runner.plan_stages([f"report@{name}" for name in options.names], root, options.begin):
        pending_dependencies = pending.intersection(step.dependencies)
        if step.changed or pending_dependencies:
            pending.add(step.address)
        print(
            f"{step.address:<28} {'runs' if step.changed else 'runs if what it reads changes' if pending_dependencies else 'cached'}"
        )
    return 0


def _print_result(result: "BuildResult", report_names: Sequence[str], layout: ProjectPaths) -> bool:
    """Print what was done, the verdicts as their stages computed them, and where their pages are; whether all are PASS."""
    print()
    for stage_result in result.stage_results:
        print(f"{stage_result.stage:<28} {stage_result.status:<8} {stage_result.seconds:8.1f} s")
    run_layout = ProjectPaths(result.root)
    statuses = {name: dvc_runner.report_status(name, result.root) for name in report_names}
    for name, status in statuses.items():
        page_paths = " ".join(str(run_layout.report_file(name, ending).relative_to(layout.root)) for ending in ("md", "html"))
        print(f"\n{name}: {status}\n{page_paths}")
    if result.root != layout.root:
        tree = result.root.relative_to(layout.root)
        print(f"\n`dvc exp apply {tree.name}` brings it here; `git worktree remove --force {tree}` frees its room")
    return set(statuses.values()) == {"PASS"}


if __name__ == "__main__":
    sys.exit(main())
