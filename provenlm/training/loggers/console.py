"""Format the text beside the progress bar: loss, speed, MFU, memory, time left."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from provenlm.training.callbacks.history import StepHistory
from provenlm.training.loggers.mfu import MfuMeter

WINDOW_STEPS = 20  # speeds are medians over this many steps


@dataclass(frozen=True)
class ConsoleLine:
    """Format the latest step; `memory_bytes()` returns the memory in use."""

    history: StepHistory
    eval_term: str
    mfu_meter: MfuMeter
    total_steps: int
    memory_bytes: Callable[[], int]

    def render(self) -> str:
        """Return the text for the latest row."""
        rows = self.history.rows[-WINDOW_STEPS:]
        rates = [self.mfu_meter.compute(row) for row in rows]
        seconds_left = (self.total_steps - int(rows[-1]["step"] or 0)) * median(float(row["seconds"] or 0) for row in rows)
        parts = [
            f"loss {rows[-1][self.eval_term]:.3f}",
            f"{median(rate['tokens_per_second'] for rate in rates):,.0f} tokens/s",
            f"MFU {median(rate['mfu'] for rate in rates):.1%}",
            f"{self.memory_bytes() / 2**20:,.0f} MiB",
            f"{format_duration(seconds_left)} left",
        ]
        return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """Format seconds as "12 s", "3 min 05 s" or "2 h 07 min"."""
    total_seconds = round(seconds)
    minutes, hours = total_seconds // 60, total_seconds // 3600
    if hours:
        return f"{hours} h {minutes % 60:02} min"
    return f"{minutes} min {total_seconds % 60:02} s" if minutes else f"{total_seconds} s"
