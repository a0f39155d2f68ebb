"""Names of reports in; everything they rest on built, their verdicts and pages out: `python -m flows.build [NAME …]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows import dvc_runner, terminal
from provenlm.core import config as parameters
from provenlm.core.paths import Layout

if TYPE_CHECKING:
    from flows.deployed_flows import Built

NOT_PASSED = 2


def main() -> int:
    """Exit status 0: built; 1: a stage or a setting is wrong, said in one line; 2: see --require-pass; 130, 143: interrupted."""
    options = _arguments().parse_args()

    def body() -> int:
        layout = Layout(Path.cwd())
        options.names = targets(options.names, parameters.load(layout.params))
        if options.dry_run:
            return _show_plan(options)
        passed = _show(_build(options), options.names, layout)
        return NOT_PASSED if options.require_pass and not passed else 0

    return terminal.run(body)


def _arguments() -> argparse.ArgumentParser:
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
        "--from", choices=dvc_runner.KINDS, default=dvc_runner.KINDS[0], dest="begin", help="leave as it is what stands before"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="stages side by side; speeds measured so depend on their neighbours"
    )
    parser.add_argument(
        "--trainings", type=int, default=1, metavar="N", help="trainings at once on this machine, if --jobs allows it"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say which stages would run")
    parser.add_argument("--require-pass", action="store_true", help=f"exit with {NOT_PASSED} unless every verdict is PASS")
    return parser


def targets(names: Sequence[str], params: parameters.Params) -> list[str]:
    """The reports that `names` mean, without names the first one. UserError for a name that is neither report nor recipe of one."""
    reports = params.tables["reports"]
    if not names:
        return list(reports)[:1]
    found: dict[str, None] = {}
    for name in names:
        meant = [name] if name in reports else [report for report in reports if name in params.covered(report)]
        if not meant:
            params.row("reports", name)
        found |= dict.fromkeys(meant)
    return list(found)


def _build(options: argparse.Namespace) -> "Built":
    ready = terminal.connect()
    from flows import deployed_flows  # Prefect reads its settings at import, and takes a second: that of the server's start

    ready()
    state = deployed_flows.build(
        options.names, options.overrides, options.begin, options.jobs, options.trainings, return_state=True
    )
    return cast("Built", state.result())


def _show_plan(options: argparse.Namespace) -> int:
    """A stage runs if it changed; one behind it may turn out to be unchanged when its turn comes."""
    from flows import worktrees

    root = worktrees.prepared(Path.cwd(), options.overrides)
    behind: set[str] = set()
    for step in dvc_runner.plan([f"report@{name}" for name in options.names], root, options.begin):
        later = behind.intersection(step.needs)
        if step.changed or later:
            behind.add(step.stage)
        print(f"{step.stage:<28} {'runs' if step.changed else 'runs if what it reads changes' if later else 'cached'}")
    return 0


def _show(built: "Built", reports: Sequence[str], layout: Layout) -> bool:
    """Print what was done, the verdicts as their stages computed them, and where their pages are; whether all are PASS."""
    print()
    for outcome in built.outcomes:
        print(f"{outcome.stage:<28} {outcome.how:<8} {outcome.seconds:8.1f} s")
    here = Layout(built.root)
    found = {name: dvc_runner.verdict(name, built.root) for name in reports}
    for name, status in found.items():
        pages = " ".join(str(here.report(name, ending).relative_to(layout.root)) for ending in ("md", "html"))
        print(f"\n{name}: {status}\n{pages}")
    if built.root != layout.root:
        tree = built.root.relative_to(layout.root)
        print(f"\n`dvc exp apply {tree.name}` brings it here; `git worktree remove --force {tree}` frees its room")
    return set(found.values()) == {"PASS"}


if __name__ == "__main__":
    sys.exit(main())
