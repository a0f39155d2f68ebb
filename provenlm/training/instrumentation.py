"""A training that runs in; a line of words for its bar, curves for DVC, events for whoever else looks, and figures at its end out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from provenlm.core.audit import Recorder
from provenlm.training.callbacks.history import History
from provenlm.training.config import Settings
from provenlm.training.loggers import trackers
from provenlm.training.loggers.console import Line
from provenlm.training.loggers.container import Live
from provenlm.training.loggers.csv_logger import Curves
from provenlm.training.memory import Profile, held
from provenlm.training.mfu import Meter, real


@dataclass(frozen=True)
class Watch:
    """Told after each step, when its row is in the history."""

    memory: Profile
    meter: Meter
    live: Live
    line: Line

    def look(self) -> str:
        """Show the newest step everywhere; the words for the progress bar."""
        self.memory.at("first step")
        self.live.show()
        return self.line.words()

    def record(self, audit: Recorder, length: int, begun: Sequence[int]) -> None:
        """What memory was held, what the device can do, what a token needs, and what share was used, as figures."""
        mfu = median(self.meter.rates(row)["mfu"] for row in real(self.live.history, begun))
        meaning = f"of training on a token of a row of {length}, forward and backward, by the closed form"
        audit.counted("flops_per_token", self.meter.flops(length), "FLOP", meaning)
        audit.measured(
            "matmul_peak",
            self.meter.peak,
            "FLOP/s",
            "a large matrix product at this precision, all processes: best of a few before the first step and, by one, after the last",
        )
        audit.measured(
            "mfu", mfu, "share", "closed-form FLOP/s over matmul_peak, median over real optimizer steps, the first few left out"
        )
        self.memory.record(audit)


def watch(history: History, judge: str, settings: Settings, meter: Meter, memory: Profile, curves: Path, folder: Path) -> Watch:
    """Begin to watch: brings `curves` (a CSV) and the sinks below `folder` up to `history`."""
    sinks = [Curves(curves, judge), *trackers.sinks(settings.watch, folder)]
    line = Line(history, judge, meter, settings.total_steps, lambda: held(memory.device))
    return Watch(memory, meter, Live(history, meter, sinks), line)
