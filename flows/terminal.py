"""Run a command on a terminal: signals, one-line errors, Prefect server and log lines."""

import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from flows import dvc_runner, server
from provenlm.core.errors import ProvenlmError


def run_cli(command: Callable[[], int]) -> int:
    """Run a command and return its exit status: 1 with a one-line message after an error, 130 after Ctrl-C."""
    # a shell starts background jobs with SIGINT ignored, and the stages would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    try:
        return command()
    except (ProvenlmError, dvc_runner.StageError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 128 + signal.SIGINT


def connect_to_server() -> Callable[[], None]:
    """Find or start a Prefect server, before Prefect is imported; return a function that waits until it is ready."""
    if (prefect_server := server.ensure_server()) is not None:
        print(f"starting a Prefect server for this run; its history is in {prefect_server.log_path.parent}")

    def wait_until_ready() -> None:
        if prefect_server is not None:
            prefect_server.wait_until_ready()
        logging.getLogger().handlers = [_ConsoleHandler()]  # in place of Prefect's

    return wait_until_ready


class _ConsoleHandler(logging.Handler):
    """Print the log lines of the flows, by stage, above a progress bar; of Prefect print only warnings outside runs."""

    def emit(self, record: logging.LogRecord) -> None:
        from_flows = Path(record.pathname).parent == Path(__file__).parent
        if from_flows or (record.levelno >= logging.WARNING and not record.name.endswith("_runs")):
            time_text = time.strftime("%H:%M:%S", time.localtime(record.created))
            with suppress(BrokenPipeError):  # the reader of a pipe such as `| head` may be gone; continue the build
                tqdm.write(f"{time_text} {getattr(record, 'task_run_name', record.name):<24} {record.getMessage()}")
                sys.stdout.flush()


def _exit_on_sigterm(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
