"""What runs, what was published last and what comes next, as a page of Markdown: `python -m flows.status_page` while a server is up."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from flows import server, terminal
from provenlm.core.errors import UserError


def main() -> int:
    """Exit status 0: printed; 1: no server answers."""

    def body() -> int:
        if not server.found():
            raise UserError("no Prefect server answers; `make serve` starts one")
        print(page())
        return 0

    return terminal.run(body)


def publish() -> None:
    """The page as an artifact of the server, with one version for each time."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(page(), "health", "what runs, the last good versions, what comes next")


def page() -> str:
    """Of this checkout's reports and of the server's runs, as they are now."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import FlowRun, StateType
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:

        def runs(sort: FlowRunSort, limit: int, *kinds: StateType) -> Sequence[FlowRun]:
            wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(kinds))))
            return client.read_flow_runs(flow_run_filter=wanted, sort=sort, limit=limit)

        names = {flow.id: flow.name for flow in client.read_flows()}
        now = runs(FlowRunSort.START_TIME_ASC, 20, StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
        ended = runs(FlowRunSort.END_TIME_DESC, 5, StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
        coming = runs(FlowRunSort.EXPECTED_START_TIME_ASC, 5, StateType.SCHEDULED)

    def rows(found: Iterable[FlowRun], clock: str) -> list[Sequence[object]]:
        return [(names[r.flow_id], _about(r), r.state and r.state.name, _minute(getattr(r, clock))) for r in found]

    heads = ("flow", "of", "state")
    return "\n\n".join(
        [
            "# Health",
            _table("Published", ("report", "version", "what it says"), _published(Path.cwd())),
            _table("Running", (*heads, "since"), rows(now, "start_time")),
            _table("Next", (*heads, "at"), rows(coming, "expected_start_time")),
            _table("Ended last", (*heads, "at"), rows(ended, "end_time")),
        ]
    )


def _about(run: object) -> str:
    given = getattr(run, "parameters", {})
    return ", ".join(given.get("names", [given.get("report", "")]))


def _published(home: Path) -> list[Sequence[object]]:
    from flows import releases, worktrees
    from provenlm.core import config as parameters
    from provenlm.core.paths import Layout

    reports = parameters.load(Layout(home).params).names("reports") if (home / ".git").exists() else []
    found = [(report, version) for report in reports if (version := releases.last(home, report))]
    return [
        (report, version, worktrees.git(home, "tag", "--list", "--format=%(contents:subject)", version))
        for report, version in found
    ]


def _minute(moment: object) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else ""


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return f"## {title}\n\nnothing"
    lines = [" | ".join(str(cell).replace("|", "/") for cell in row) for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join([f"## {title}", "", *(f"| {line} |" for line in lines)])


if __name__ == "__main__":
    sys.exit(main())
