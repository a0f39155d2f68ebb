"""Define the flows that users start, with parameter types taken from params.yaml."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from flows import server  # noqa: F401  imported before Prefect, which reads its settings at import

# isort: split
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows import dvc_runner, tasks, worktrees
from flows.status_page import publish_status
from provenlm.core.config import load_params
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.stages import STAGES

PARAMS = load_params(ProjectPaths(Path.cwd()).params_yaml)
REPORTS = PARAMS.names("reports")

if TYPE_CHECKING:
    ReportName: TypeAlias = str
    TargetName: TypeAlias = str
    StageName: TypeAlias = str
else:
    StageName = Literal[STAGES]
    # literals give the form its choices, and the API refuses a wrong name before it creates a run
    ReportName = Literal[tuple(REPORTS)]
    TargetName = Literal[tuple(dict.fromkeys([*REPORTS, *(recipe for report in REPORTS for recipe in PARAMS.recipes_of(report))]))]
ParamOverride = Annotated[
    str, Field(pattern=r"^(corpora|recipes|reports)\.[^=]+=.*$", examples=["recipes.ladder_memorise.train.max_steps=50"])
]
PositiveCount = Annotated[int, Field(ge=1)]


def _keep_log_record(record: logging.LogRecord) -> bool:
    """Drop the stack trace that Prefect logs for an expected error.

    The state of the run already has its message.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], ProvenlmError))


for _logger_name in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_logger_name).addFilter(_keep_log_record)


@dataclass(frozen=True)
class BuildResult:
    """Hold the results of the stages of a build and the checkout it ran in."""

    stage_results: Sequence[tasks.StageResult]
    root: Path


def _flow_run_name() -> str:
    flow_parameters: Any = flow_run.parameters
    return ", ".join(
        [
            *(flow_parameters["names"] if "names" in flow_parameters else [flow_parameters["report"]]),
            *flow_parameters.get("overrides", []),
        ]
    )


@flow(name="build", flow_run_name=_flow_run_name)
def build(
    names: list[TargetName] = REPORTS[:1],
    overrides: list[ParamOverride] = [],  # noqa: B006
    start_at: StageName = "scrape",
    jobs: PositiveCount = 1,
    max_parallel_train: PositiveCount = 1,
) -> State[BuildResult]:
    """Run every changed stage that the reports depend on, from scrape to verdict.

    Args:
        names: reports to build, or recipes, which select the reports that contain them
        overrides: values of params.yaml for this run only, such as recipes.docs_moe.train.max_steps=200; the file is not changed
        start_at: first stage to consider; earlier stages are not checked or run
        jobs: maximum number of parallel stages; more than 1 distorts measured speeds
        max_parallel_train: maximum number of parallel train stages on this machine, within jobs
    """
    home = Path.cwd()
    try:
        reports = dvc_runner.resolve_reports(names, PARAMS)
        root = worktrees.prepare_worktree(home, overrides, reports)
        stages = dvc_runner.plan_stages([f"report@{name}" for name in reports], root, start_at)
        if not overrides and any(stage.changed for stage in stages):
            worktrees.check_params(root, reports)
        stage_results = tasks.run_stages(stages, run_location(home, root, jobs, max_parallel_train))
        if overrides:
            worktrees.save_experiment(root, [stage_result.address for stage_result in stage_results])
    except dvc_runner.StageCancelledError as error:
        return Cancelled(message=str(error), data=error)
    except ProvenlmError as error:
        return Failed(message=str(error), data=error)  # no stack trace: the message is one line
    for name in reports:
        publish_report(name, root)
    num_ran = sum(stage_result.status == "ran" for stage_result in stage_results)
    return Completed(message=f"{num_ran} ran, {len(stage_results) - num_ran} cached", data=BuildResult(stage_results, root))


@flow(name="report", flow_run_name=_flow_run_name)
def report(report: ReportName = REPORTS[0]) -> State[BuildResult]:
    """Evaluate the checks of a report again, from existing audits and params.yaml.

    Args:
        report: report to evaluate
    """
    state: State[BuildResult] = build.fn([report], start_at="report")
    return state


@flow(name="status")
def status() -> None:
    """Publish a page of runs and the latest releases, as an artifact of this run."""
    publish_status()


def run_location(home: Path, root: Path, jobs: int, max_parallel_train: int) -> tasks.RunLocation:
    """Describe where stages run.

    Train stages of all checkouts of `home` share its locks.
    """
    return tasks.RunLocation(root, jobs, [ProjectPaths(home).file_lock(f"train-{slot}") for slot in range(max_parallel_train)])


def publish_report(name: str, root: Path) -> None:
    """Publish the page of report `name` as an artifact and log its verdict."""
    page_path = ProjectPaths(root).report_file(name, "md")
    text, verdict = (
        tasks.to_prefect_markdown(page_path.read_text(encoding="utf-8"), page_path.parent),
        dvc_runner.report_status(name, root),
    )
    text += f"\n\nLinks to the audits: {page_path.relative_to(Path.cwd())}.\n"
    create_markdown_artifact(text, tasks.artifact_key(f"page-{name}"), f"{name}: {verdict}")
    get_run_logger().info("%s: %s", name, verdict)
