"""Start the Prefect UI and serve builds and scheduled refreshes until Ctrl-C."""

import argparse
import os
from pathlib import Path

from provenlm.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    default_port = int(os.environ.get("PREFECT_SERVER_API_PORT", "4200"))
    parser.add_argument("--port", type=int, default=default_port, help=f"port of the UI (default: {default_port})")
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


def main(args: argparse.Namespace) -> int:
    """Serve the flows until Ctrl-C or SIGTERM.

    Runs in progress are cancelled and save a checkpoint.
    """
    if args.template and not args.pool:
        raise ConfigError("--template: requires --pool NAME")
    from flows import serve

    serve.serve_flows(args.port, args.pool, args.template, args.on_failure_webhook)
    return 0
