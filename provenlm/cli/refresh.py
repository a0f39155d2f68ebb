"""Refresh the corpora of a report and publish it unless the model regressed.

A refresh scrapes the corpora again and rebuilds what changed.
"""

import argparse
from typing import cast

from provenlm.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("report", help="report of params.yaml with a `schedule` section")


def main(args: argparse.Namespace) -> int:
    """Refresh the report.

    Return 0 if it was published, is unchanged, or was not published because the model regressed.
    """
    wait_until_ready = console.connect_to_server()
    from flows import refresh  # imported late: Prefect reads its settings at import

    refresh.require_refresh_config(args.report)
    wait_until_ready()
    state = refresh.refresh(args.report, return_state=True)
    version = cast("str | None", state.result())
    print(f"\n{state.name}: {state.message}\npublished: {version}")
    return 0
