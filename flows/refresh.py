"""Rebuild a report from freshly scraped corpora: `python -m flows.refresh NAME`."""

import argparse
import sys
from typing import cast

from flows import terminal

EXIT_CODES = (
    "exit status: 0 published, unchanged, or not published because of a regression; 1 a stage failed or a setting is wrong; "
    "130, 143 interrupted"
)


def main() -> int:
    """Refresh the named report and return the exit status (see EXIT_CODES)."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.refresh",
        description="Scrape the corpora of a report again, rebuild what changed, and publish a new version unless the model regressed.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("report", help="report of params.yaml with a `schedule` section")
    name = parser.parse_args().report

    def command() -> int:
        wait_until_ready = terminal.connect_to_server()
        from flows import refresh_flow  # imported late: Prefect reads its settings at import

        refresh_flow.require_refresh_config(name)
        wait_until_ready()
        state = refresh_flow.refresh(name, return_state=True)
        version = cast("str | None", state.result())
        print(f"\n{state.name}: {state.message}\npublished: {version}")
        return 0

    return terminal.run_cli(command)


if __name__ == "__main__":
    sys.exit(main())
