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

RUNS = 4  # at once; stages of one subject wait for each other in any case


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
    return terminal.run(lambda: _serve(options))


def _serve(options: argparse.Namespace) -> int:
    # poll often: a person who pressed a button waits; settings are read when Prefect is imported
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    server = environment.serve(options.port)
    from prefect.client.orchestration import get_client

    from flows import deployments

    if server is not None:
        server.ready()
    made = deployments.deployments(options.pool)
    if options.tell:
        deployments.tell(options.tell)
    with get_client(sync_client=True) as client:
        for name in deployments.forget_the_dead(client):
            print(f"{name}: its process is gone; it is shown as crashed, and goes on when it is run again")
        if options.pool:
            deployments.deploy(client, made, options.pool, options.template)
        else:
            deployments.take_over(client, made)
    said = f"{Path.cwd().name}: {', '.join(deployment.name for deployment in made)} at {os.environ['PREFECT_API_URL'].removesuffix('/api')}"
    if not options.pool:
        asyncio.run(_runner(made, said))
        return 0
    print(said, flush=True)
    if server is not None:
        signal.pause()
    return 0


async def _runner(made: "Sequence[RunnerDeployment]", said: str) -> None:
    """Serve `made` until a signal; runs that go on then are cancelled by the end of this process, as gently as by hand."""
    from prefect.runner import Runner

    runner = Runner(name="flows", limit=RUNS, pause_on_shutdown=False)
    for deployment in made:
        await runner.aadd_deployment(deployment)
    print(said, flush=True)
    await runner.start()


if __name__ == "__main__":
    sys.exit(main())
