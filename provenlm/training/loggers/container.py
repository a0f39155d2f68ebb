"""A history in, the same rows for whoever watches while training runs out: every sink shows what the history holds, no more, no less."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from provenlm.training.callbacks.history import HistoryRow, StepHistory
from provenlm.training.mfu import MfuMeter


class MetricLogger(Protocol):
    """Where rows go. `begin` forgets what an earlier run left; numbers are by name, those that a step has not are left out."""

    def start(self) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class LoggerContainer:
    """Hands the rows of `history` on, with their rates. What was there before (a resumed run) comes first, so nothing is there twice."""

    def __init__(self, history: StepHistory, mfu_meter: MfuMeter, loggers: Sequence[MetricLogger]) -> None:
        self.history, self.mfu_meter, self.loggers = history, mfu_meter, loggers
        self._restart()

    def log_latest(self) -> None:
        """Hand on the newest row; all lasting ones anew where the run went back to an earlier step."""
        latest = self.history.rows[-1]
        if int(latest["step"] or 0) > self._last_logged_step:
            self._log_row(latest)
        else:
            self._restart()

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()

    def _restart(self) -> None:
        self._last_logged_step = 0
        for logger in self.loggers:
            logger.start()
        for row in self.history.effective_rows():
            self._log_row(row)

    def _log_row(self, row: HistoryRow) -> None:
        self._last_logged_step = int(row["step"] or 0)
        values = {name: float(value) for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        for logger in self.loggers:
            logger.log(self._last_logged_step, values | self.mfu_meter.compute(row))
