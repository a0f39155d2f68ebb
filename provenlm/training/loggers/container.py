"""A history in, the same rows for whoever watches while training runs out: every sink shows what the history holds, no more, no less."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from provenlm.training.callbacks.history import History, Row
from provenlm.training.mfu import Meter


class Sink(Protocol):
    """Where rows go. `begin` forgets what an earlier run left; numbers are by name, those that a step has not are left out."""

    def begin(self) -> None: ...

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Live:
    """Hands the rows of `history` on, with their rates. What was there before (a resumed run) comes first, so nothing is there twice."""

    def __init__(self, history: History, meter: Meter, sinks: Sequence[Sink]) -> None:
        self.history, self.meter, self.sinks = history, meter, sinks
        self._begin()

    def show(self) -> None:
        """Hand on the newest row; all lasting ones anew where the run went back to an earlier step."""
        newest = self.history.rows[-1]
        if int(newest["step"] or 0) > self._shown:
            self._hand_on(newest)
        else:
            self._begin()

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()

    def _begin(self) -> None:
        self._shown = 0
        for sink in self.sinks:
            sink.begin()
        for row in self.history.lasting():
            self._hand_on(row)

    def _hand_on(self, row: Row) -> None:
        self._shown = int(row["step"] or 0)
        values = {name: float(value) for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        for sink in self.sinks:
            sink.write(self._shown, values | self.meter.rates(row))
