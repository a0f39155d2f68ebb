"""Names of reports in; everything they rest on built, their verdicts and pages out: `python -m flows.build [NAME …]`."""

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast

from tqdm import tqdm

from flows import environment, pipeline
from provenlm.core import params as parameters
from provenlm.core.errors import UserError
from provenlm.core.layout import Layout

if TYPE_CHECKING:
    from flows.tasks import Outcome

NOT_PASSED = 2


def main() -> int:
    """Exit status 0: built; 1: a stage or a setting is wrong, said in one line; 2: see --require-pass; 130, 143: interrupted."""
    options = _arguments().parse_args()
    layout = Layout(Path.cwd())
    # a shell starts a job in the background with SIGINT ignored, and so would the stages be
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        reports = targets(options.names, parameters.load(layout.params))
        if options.dry_run:
            return _show_plan(pipeline.plan([f"report@{name}" for name in reports], layout.root))
        _show_outcomes(_build(reports))
        passed = [_show_verdict(name, layout) for name in reports]
    except (UserError, pipeline.StageError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    return NOT_PASSED if options.require_pass and not all(passed) else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.build",
        description="Build reports and everything they rest on, and print their verdicts. Without a name: the first report of params.yaml.",
        epilog=main.__doc__,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a report of params.yaml, or a recipe, which stands for its reports"
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
        meant = [name] if name in reports else [report for report, row in reports.items() if name in row["recipes"]]
        if not meant:
            params.row("reports", name)
        found |= dict.fromkeys(meant)
    return list(found)


def _build(reports: list[str]) -> "list[Outcome]":
    if (server := environment.connect()) is not None:
        print(f"starting Prefect for this run; its history is in {server.log.parent}")
    from flows import tasks  # Prefect reads its settings at import, and takes a second: that of the server's start

    if server is not None:
        server.ready()
    _listen_here()
    return cast("list[Outcome]", tasks.build(reports, return_state=True).result())


class _Terminal(logging.Handler):
    """Prints what our flows say, by stage, above the bar if there is one; of Prefect only its warnings outside of runs."""

    def emit(self, record: logging.LogRecord) -> None:
        ours = Path(record.pathname).parent == Path(__file__).parent
        if ours or (record.levelno >= logging.WARNING and not record.name.endswith("_runs")):
            clock = time.strftime("%H:%M:%S", time.localtime(record.created))
            with suppress(BrokenPipeError):  # `| head` has read enough; the build goes on
                tqdm.write(f"{clock} {getattr(record, 'task_run_name', record.name):<24} {record.getMessage()}")
                sys.stdout.flush()


def _listen_here() -> None:
    logging.getLogger().handlers = [_Terminal()]  # in place of Prefect's


def _show_plan(steps: Sequence[pipeline.Step]) -> int:
    """A stage runs if it changed; one behind it may turn out to be unchanged when its turn comes."""
    behind: set[str] = set()
    for step in steps:
        later = behind.intersection(step.needs)
        if step.changed or later:
            behind.add(step.stage)
        print(f"{step.stage:<28} {'runs' if step.changed else 'runs if what it reads changes' if later else 'cached'}")
    return 0


def _show_outcomes(outcomes: "Sequence[Outcome]") -> None:
    print()
    for outcome in outcomes:
        print(f"{outcome.stage:<28} {outcome.how:<8} {outcome.seconds:8.1f} s")


def _show_verdict(report: str, layout: Layout) -> bool:
    """Print the verdict of `report` as its stage computed it, and where its pages are; whether it is PASS."""
    status = str(json.loads(layout.report(report, "json").read_text(encoding="utf-8"))["status"])
    pages = " ".join(str(layout.report(report, ending).relative_to(layout.root)) for ending in ("md", "html"))
    print(f"\n{report}: {status}\n{pages}")
    return status == "PASS"


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
