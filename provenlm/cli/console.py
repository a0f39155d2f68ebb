"""Connect a command to Prefect: provide a server and print the log of the flows."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

import flows
from flows import server


def connect_to_server() -> Callable[[], None]:
    """Find or start a Prefect server, before Prefect is imported.

    Return a function that waits until it is ready.
    """
    if (prefect_server := server.ensure_server()) is not None:
        print(f"starting a Prefect server for this run; its history is in {prefect_server.log_path.parent}")

    def wait_until_ready() -> None:
        if prefect_server is not None:
            prefect_server.wait_until_ready()
        logging.getLogger().handlers = [_ConsoleHandler()]  # in place of Prefect's

    return wait_until_ready


class _ConsoleHandler(logging.Handler):
    """Print the log lines of the flows, by stage, above a progress bar.

    Of Prefect print only warnings outside runs.
    """

    def emit(self, record: logging.LogRecord) -> None:
        from_flows = Path(record.pathname).parent == Path(flows.__file__).parent
        if from_flows or (record.levelno >= logging.WARNING and not record.name.endswith("_runs")):
            time_text = time.strftime("%H:%M:%S", time.localtime(record.created))
            with suppress(BrokenPipeError):  # the reader of a pipe such as `| head` may be gone; continue the build
                tqdm.write(f"{time_text} {getattr(record, 'task_run_name', record.name):<24} {record.getMessage()}")
                sys.stdout.flush()
