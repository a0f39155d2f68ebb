"""Replay the step history to several loggers, so that all show the same rows."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from provenlm.training.callbacks.history import HistoryRow, StepHistory
from provenlm.training.loggers.mfu import MfuMeter


class MetricLogger(Protocol):
    """Receive rows of numbers by name; a row has only the numbers of its step."""

    def start(self) -> None:
        """Open an empty log, deleting what an earlier run logged."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step."""
        ...

    def close(self) -> None:
        """Flush and close the log."""
        ...


class LoggerContainer:
    """Send the rows of `history`, with speed and MFU, to each logger.

    Rows of earlier processes of a resumed run are sent first, so that no row appears twice.
    """

    def __init__(self, history: StepHistory, mfu_meter: MfuMeter, loggers: Sequence[MetricLogger]) -> None:
        self.history, self.mfu_meter, self.loggers = history, mfu_meter, loggers
        self._restart()

    def log_latest(self) -> None:
        """Log the latest row; after a rollback, log all effective rows again."""
        latest = self.history.rows[-1]
        if int(latest["step"] or 0) > self._last_logged_step:
            self._log_row(latest)
        else:
            self._restart()

    def close(self) -> None:
        """Close all loggers."""
        for logger in self.loggers:
            logger.close()

    def _restart(self) -> None:
        """Restart all loggers and log the effective rows."""
        self._last_logged_step = 0
        for logger in self.loggers:
            logger.start()
        for row in self.history.effective_rows():
            self._log_row(row)

    def _log_row(self, row: HistoryRow) -> None:
        """Send one row to all loggers."""
        self._last_logged_step = int(row["step"] or 0)
        values = {name: float(value) for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        for logger in self.loggers:
            logger.log(self._last_logged_step, values | self.mfu_meter.compute(row))
