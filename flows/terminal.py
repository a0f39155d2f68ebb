"""What every command of the flows has in common on a terminal: signals, one line for a mistake, a server, and lines by stage."""

import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from flows import dvc_runner
from flows import server as environment
from provenlm.core.errors import ProvenlmError


def run_cli(command: Callable[[], int]) -> int:
    """The exit status of `body`; 1 with one line for a mistake, 130 for an interrupt."""
    # a shell starts a job in the background with SIGINT ignored, and so would the stages be
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    try:
        return command()
    except (ProvenlmError, dvc_runner.StageError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT


def connect_to_server() -> Callable[[], None]:
    """Before Prefect is imported: name the server, or start one. What is returned is to be called after: then it answers."""
    if (prefect_server := environment.ensure_server()) is not None:
        print(f"starting Prefect for this run; its history is in {prefect_server.log_path.parent}")

    def wait_until_ready() -> None:
        if prefect_server is not None:
            prefect_server.wait_until_ready()
        logging.getLogger().handlers = [_ConsoleHandler()]  # in place of Prefect's

    return wait_until_ready


class _ConsoleHandler(logging.Handler):
    """Prints what our flows say, by stage, above the bar if there is one; of Prefect only its warnings outside of runs."""

    def emit(self, record: logging.LogRecord) -> None:
        from_flows = Path(record.pathname).parent == Path(__file__).parent
        if from_flows or (record.levelno >= logging.WARNING and not record.name.endswith("_runs")):
            time_text = time.strftime("%H:%M:%S", time.localtime(record.created))
            with suppress(BrokenPipeError):  # `| head` has read enough; the build goes on
                tqdm.write(f"{time_text} {getattr(record, 'task_run_name', record.name):<24} {record.getMessage()}")
                sys.stdout.flush()


def _exit_on_sigterm(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
