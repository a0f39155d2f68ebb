"""The flows that a person starts, from the terminal or from a form: their parameters are typed by what params.yaml names."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from flows import server  # noqa: F401  before Prefect, which reads its settings at import

# isort: split
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows import dvc_runner, tasks, worktrees
from flows.build import targets
from flows.status_page import publish
from provenlm.core import config as parameters
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout

PARAMS = parameters.load(Layout(Path.cwd()).params)
REPORTS = PARAMS.names("reports")

if TYPE_CHECKING:
    Report: TypeAlias = str
    Name: TypeAlias = str
    Kind: TypeAlias = str
else:
    Kind = Literal[dvc_runner.KINDS]
    # choices in the form, and a wrong name is refused before a run is made
    Report = Literal[tuple(REPORTS)]
    Name = Literal[tuple(dict.fromkeys([*REPORTS, *(recipe for report in REPORTS for recipe in PARAMS.covered(report))]))]
Override = Annotated[
    str, Field(pattern=r"^(corpora|recipes|reports)\.[^=]+=.*$", examples=["recipes.ladder_memorise.train.steps=50"])
]
Count = Annotated[int, Field(ge=1)]


def _unsaid(line: logging.LogRecord) -> bool:
    """Not the stack trace that Prefect's engine logs of a mistake that the state of the run has told in one line."""
    return not (line.exc_info and isinstance(line.exc_info[1], UserError | dvc_runner.StageError))


for _name in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_unsaid)


@dataclass(frozen=True)
class Built:
    """What a build did, and the checkout in which it did it."""

    outcomes: Sequence[tasks.Outcome]
    root: Path


def _names() -> str:
    given: Any = flow_run.parameters
    return ", ".join([*(given["names"] if "names" in given else [given["report"]]), *given.get("overrides", [])])


@flow(name="build", flow_run_name=_names)
def build(
    names: list[Name] = REPORTS[:1],
    overrides: list[Override] = [],  # noqa: B006
    begin: Kind = "scrape",
    jobs: Count = 1,
    trainings: Count = 1,
) -> State[Built]:
    """From the world to the verdict: every stage that a report rests on, those that changed and no others.

    Args:
        names: what to build, with everything that it rests on; a recipe stands for its reports
        overrides: values of params.yaml for this run alone, such as recipes.docs_moe.train.steps=200; params.yaml stays as it is
        begin: the first stage to look at; what stands before it stays as it is, changed or not
        jobs: stages side by side; more than 1 makes speeds that they measure depend on their neighbours
        trainings: trainings at once on this machine, if jobs allows it
    """
    home = Path.cwd()
    try:
        reports = targets(names, PARAMS)
        root = worktrees.prepared(home, overrides)
        outcomes = tasks.run(
            dvc_runner.plan([f"report@{name}" for name in reports], root, begin), place(home, root, jobs, trainings)
        )
        if overrides:
            worktrees.save(root, [outcome.stage for outcome in outcomes])
    except dvc_runner.StoppedError as error:
        return Cancelled(message=str(error), data=error)
    except (UserError, dvc_runner.StageError) as error:
        return Failed(message=str(error), data=error)  # no stack trace: it is told in one line
    for name in reports:
        show(name, root)
    ran = sum(outcome.how == "ran" for outcome in outcomes)
    return Completed(message=f"{ran} ran, {len(outcomes) - ran} cached", data=Built(outcomes, root))


@flow(name="report", flow_run_name=_names)
def report(report: Report = REPORTS[0]) -> State[Built]:
    """Judge anew what was measured: the report alone, from the audits that lie there, with the bounds as they now are.

    Args:
        report: which
    """
    state: State[Built] = build.fn([report], begin="report")
    return state


@flow(name="health")
def health() -> None:
    """What runs, the last good versions and what comes next, as a page (an artifact of this run)."""
    publish()


def place(home: Path, root: Path, jobs: int, trainings: int) -> tasks.Place:
    """Trainings of all checkouts of `home` share its locks."""
    return tasks.Place(root, jobs, [Layout(home).lock(f"train-{slot}") for slot in range(trainings)])


def show(name: str, root: Path) -> None:
    """The page of report `name` as an artifact, and its verdict in the log."""
    page = Layout(root).report(name, "md")
    text, status = tasks.as_artifact(page.read_text(encoding="utf-8"), page.parent), dvc_runner.verdict(name, root)
    text += f"\n\nThe links to audits are in {page.relative_to(Path.cwd())}.\n"
    create_markdown_artifact(text, tasks.key(f"page-{name}"), f"{name}: {status}")
    get_run_logger().info("%s: %s", name, status)
