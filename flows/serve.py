"""Start the Prefect UI and serve the flows until Ctrl-C: `python -m flows.serve`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows import server, terminal

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

MAX_CONCURRENT_RUNS = 4  # stages of one subject wait for each other in any case
EXIT_CODES = "exit status: 0 ended by Ctrl-C or SIGTERM (runs keep their last checkpoint); 1 a setting is wrong"


def main() -> int:
    """Serve the flows until a signal and return the exit status (see EXIT_CODES)."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve",
        description="Start the Prefect UI, and run builds started there from a form or on a schedule, until Ctrl-C.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--port", type=int, default=int(os.environ.get("PREFECT_SERVER_API_PORT", "4200")), help="port of the UI")
    parser.add_argument(
        "--pool", help="register the flows with this work pool (created if it does not exist) instead of running them here"
    )
    parser.add_argument(
        "--template",
        type=Path,
        metavar="FILE",
        help="job template of that pool, named after its type, such as docs/pools/docker.json",
    )
    parser.add_argument("--on-failure-webhook", metavar="URL", help="post a line of JSON to URL when a run fails or crashes")
    options = parser.parse_args()
    if options.template and not options.pool:
        parser.error("--template: requires --pool NAME")
    return terminal.run_cli(lambda: _run_server(options))


def _run_server(options: argparse.Namespace) -> int:
    # poll often, since a person waits for the run; Prefect reads its settings at import
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    prefect_server = server.start_server(options.port)
    from prefect.client.orchestration import get_client

    from flows import deployments

    if prefect_server is not None:
        prefect_server.wait_until_ready()
    runner_deployments = deployments.build_deployments(options.pool)
    if options.on_failure_webhook:
        deployments.add_failure_webhook(options.on_failure_webhook)
    with get_client(sync_client=True) as client:
        for run_name in deployments.mark_crashed_runs(client):
            print(f"{run_name}: its process is gone; marked as crashed, and resumes when it is started again")
        if options.pool:
            deployments.apply_deployments(client, runner_deployments, options.pool, options.template)
        else:
            deployments.replace_deployments(client, runner_deployments)
    status_line = f"{Path.cwd().name}: {', '.join(deployment.name for deployment in runner_deployments)} at {os.environ['PREFECT_API_URL'].removesuffix('/api')}"
    if not options.pool:
        asyncio.run(_serve_deployments(runner_deployments, status_line))
        return 0
    print(status_line, flush=True)
    if prefect_server is not None:
        signal.pause()
    return 0


async def _serve_deployments(runner_deployments: "Sequence[RunnerDeployment]", status_line: str) -> None:
    """Serve the deployments until a signal; runs in progress are then cancelled and save a checkpoint."""
    from prefect.runner import Runner

    runner = Runner(name="flows", limit=MAX_CONCURRENT_RUNS, pause_on_shutdown=False)
    for deployment in runner_deployments:
        await runner.aadd_deployment(deployment)
    print(status_line, flush=True)
    await runner.start()


if __name__ == "__main__":
    sys.exit(main())
