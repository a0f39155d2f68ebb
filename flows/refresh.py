"""A report in; its corpora scraped again, and if they changed, a new version published if it is no worse: `python -m flows.refresh NAME`."""

import argparse
import sys
from typing import cast

from flows import terminal


def main() -> int:
    """Exit status 0: published, unchanged, or kept because the new one is worse; 1: a stage or a setting is wrong; 130, 143: interrupted."""
    parser = argparse.ArgumentParser(prog="python -m flows.refresh", description=__doc__, epilog=main.__doc__)
    parser.add_argument("report", help="a name below `reports` in params.yaml, with a `refresh` section")
    name = parser.parse_args().report

    def command() -> int:
        wait_until_ready = terminal.connect_to_server()
        from flows import refresh_flow  # Prefect reads its settings at import

        refresh_flow.require_refresh_config(name)
        wait_until_ready()
        state = refresh_flow.refresh(name, return_state=True)
        version = cast("str | None", state.result())
        print(f"\n{state.name}: {state.message}\npublished: {version}")
        return 0

    return terminal.run_cli(command)


if __name__ == "__main__":
    sys.exit(main())
