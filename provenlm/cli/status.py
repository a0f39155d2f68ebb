"""Show running, finished and scheduled runs and the latest published versions."""

import argparse

from flows import server, status_page
from provenlm.core.errors import ProvenlmError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def main(args: argparse.Namespace) -> int:
    """Print the status page of the running Prefect server."""
    if not server.find_server():
        raise ProvenlmError("no Prefect server is running; start one with `provenlm serve`")
    print(status_page.status_markdown())
    return 0
