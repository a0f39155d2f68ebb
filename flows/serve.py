"""Prefect's server with its pages, and the flows to start there by hand or by the clock: `python -m flows.serve`, until Ctrl-C."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows import server as environment
from flows import terminal

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

MAX_CONCURRENT_RUNS = 4  # at once; stages of one subject wait for each other in any case


def main() -> int:
    """Exit status 0: ended by Ctrl-C or SIGTERM, which runs survive as far as their last checkpoint; 1: a mistake, in one line."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__, epilog=main.__doc__)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PREFECT_SERVER_API_PORT", "4200")), help="of the pages")
    parser.add_argument(
        "--pool", help="name the flows to the workers of this pool (made if it is not there), in place of running them"
    )
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="of that pool, and named after its type, as docs/pools/docker.json is"
    )
    parser.add_argument("--tell", metavar="URL", help="post a line of JSON there whenever a run fails or crashes")
    options = parser.parse_args()
    if options.template and not options.pool:
        parser.error("--template is of a pool: --pool NAME")
    return terminal.run_cli(lambda: _run_server(options))


def _run_server(options: argparse.Namespace) -> int:
    # poll often: a person who pressed a button waits; settings are read when Prefect is imported
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    prefect_server = environment.start_server(options.port)
    from prefect.client.orchestration import get_client

    from flows import deployments

    if prefect_server is not None:
        prefect_server.wait_until_ready()
    runner_deployments = deployments.build_deployments(options.pool)
    if options.tell:
        deployments.add_failure_webhook(options.tell)
    with get_client(sync_client=True) as client:
        for run_name in deployments.mark_crashed_runs(client):
            print(f"{run_name}: its process is gone; it is shown as crashed, and goes on when it is run again")
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
    """Serve `made` until a signal; runs that go on then are cancelled by the end of this process, as gently as by hand."""
    from prefect.runner import Runner

    runner = Runner(name="flows", limit=MAX_CONCURRENT_RUNS, pause_on_shutdown=False)
    for deployment in runner_deployments:
        await runner.aadd_deployment(deployment)
    print(status_line, flush=True)
    await runner.start()


if __name__ == "__main__":
    sys.exit(main())
