"""Start the Prefect server with its UI and run the deployments of the flows."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows import server

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

MAX_CONCURRENT_RUNS = 4  # stages of one subject wait for each other in any case


def serve_flows(port: int, pool: str | None = None, template: Path | None = None, failure_webhook: str | None = None) -> None:
    """Run the flows here or, with a pool, register them for its workers.

    A server is started unless one is running.

    Without a pool, or with a server of its own, it returns on a signal; otherwise it returns at once. Raises ConfigError for an
    unsuitable template.
    """
    # poll often, since a person waits for the run; Prefect reads its settings at import
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    prefect_server = server.start_server(port)
    from prefect.client.orchestration import get_client

    from flows import deployments

    if prefect_server is not None:
        prefect_server.wait_until_ready()
    runner_deployments = deployments.build_deployments(pool)
    if failure_webhook:
        deployments.add_failure_webhook(failure_webhook)
    with get_client(sync_client=True) as client:
        for run_name in deployments.mark_crashed_runs(client):
            print(f"{run_name}: its process is gone; marked as crashed, and resumes when it is started again")
        if pool:
            deployments.apply_deployments(client, runner_deployments, pool, template)
        else:
            deployments.replace_deployments(client, runner_deployments)
    names = ", ".join(deployment.name for deployment in runner_deployments)
    status_line = f"{Path.cwd().name}: {names} at {os.environ['PREFECT_API_URL'].removesuffix('/api')}"
    if not pool:
        asyncio.run(_serve_deployments(runner_deployments, status_line))
        return
    print(status_line, flush=True)
    if prefect_server is not None:
        signal.pause()


async def _serve_deployments(runner_deployments: "Sequence[RunnerDeployment]", status_line: str) -> None:
    """Serve the deployments until a signal.

    Runs in progress are then cancelled and save a checkpoint.
    """
    from prefect.runner import Runner

    runner = Runner(name="flows", limit=MAX_CONCURRENT_RUNS, pause_on_shutdown=False)
    for deployment in runner_deployments:
        await runner.aadd_deployment(deployment)
    print(status_line, flush=True)
    await runner.start()
