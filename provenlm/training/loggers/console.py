"""A history in, the words beside the progress bar out: loss, speed, share of the peak, memory, time left."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from provenlm.training.callbacks.history import History
from provenlm.training.mfu import Meter

RECENT = 20  # steps, of which speeds are the median: one slow step says nothing


@dataclass(frozen=True)
class Line:
    """What is known beforehand: the loss's name (`judge`), how many steps there are, and `memory()` in bytes."""

    history: History
    judge: str
    meter: Meter
    steps: int
    memory: Callable[[], int]

    def words(self) -> str:
        """Of the newest row."""
        rows = self.history.rows[-RECENT:]
        rates = [self.meter.rates(row) for row in rows]
        left = (self.steps - int(rows[-1]["step"] or 0)) * median(float(row["seconds"] or 0) for row in rows)
        parts = [
            f"loss {rows[-1][self.judge]:.3f}",
            f"{median(rate['tokens_per_second'] for rate in rates):,.0f} tokens/s",
            f"MFU {median(rate['mfu'] for rate in rates):.1%}",
            f"{self.memory() / 2**20:,.0f} MiB",
            f"{clock(left)} left",
        ]
        return ", ".join(parts)


def clock(seconds: float) -> str:
    """12 s, 3 min 05 s or 2 h 07 min."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"
