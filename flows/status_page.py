"""Show running, finished and scheduled runs and the latest releases."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def publish_status() -> None:
    """Publish the status page as a versioned artifact of the server."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(status_markdown(), "status", "running, finished and scheduled runs, and the latest releases")


def status_markdown() -> str:
    """Return the releases of this checkout and the runs of the server as Markdown."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import FlowRun, StateType
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:

        def read_runs(sort: FlowRunSort, limit: int, *state_types: StateType) -> Sequence[FlowRun]:
            run_filter = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(state_types))))
            return client.read_flow_runs(flow_run_filter=run_filter, sort=sort, limit=limit)

        flow_names = {flow.id: flow.name for flow in client.read_flows()}
        running = read_runs(FlowRunSort.START_TIME_ASC, 20, StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
        finished = read_runs(
            FlowRunSort.END_TIME_DESC, 5, StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED
        )
        scheduled = read_runs(FlowRunSort.EXPECTED_START_TIME_ASC, 5, StateType.SCHEDULED)

    def table_rows(flow_runs: Iterable[FlowRun], time_field: str) -> list[Sequence[object]]:
        return [
            (flow_names[run.flow_id], _subject(run), run.state and run.state.name, _format_minute(getattr(run, time_field)))
            for run in flow_runs
        ]

    columns = ("flow", "subject", "state")
    return "\n\n".join(
        [
            "# Status",
            _table("Published", ("report", "version", "summary"), _published_rows(Path.cwd())),
            _table("Running", (*columns, "since"), table_rows(running, "start_time")),
            _table("Scheduled", (*columns, "at"), table_rows(scheduled, "expected_start_time")),
            _table("Finished", (*columns, "at"), table_rows(finished, "end_time")),
        ]
    )


def _subject(run: object) -> str:
    flow_parameters = getattr(run, "parameters", {})
    return ", ".join(flow_parameters.get("names", [flow_parameters.get("report", "")]))


def _published_rows(home: Path) -> list[Sequence[object]]:
    from flows import releases, worktrees
    from provenlm.core.config import load_params
    from provenlm.core.paths import ProjectPaths

    reports = load_params(ProjectPaths(home).params_yaml).names("reports") if (home / ".git").exists() else []
    latest = [(report, version) for report in reports if (version := releases.latest_release(home, report))]
    return [
        (report, version, worktrees.run_git(home, "tag", "--list", "--format=%(contents:subject)", version))
        for report, version in latest
    ]


def _format_minute(time: object) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else ""


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return f"## {title}\n\nnone"
    lines = [" | ".join(str(cell).replace("|", "/") for cell in row) for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join([f"## {title}", "", *(f"| {line} |" for line in lines)])
