"""A training that runs in; a line of words for its bar, curves for DVC, events for whoever else looks, and figures at its end out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from provenlm.core.audit import MetricRecorder
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.loggers import trackers
from provenlm.training.loggers.console import ConsoleLine
from provenlm.training.loggers.container import LoggerContainer
from provenlm.training.loggers.csv_logger import CsvLogger
from provenlm.training.memory import MemoryProfile, memory_allocated
from provenlm.training.mfu import MfuMeter, steady_state_rows


@dataclass(frozen=True)
class Instrumentation:
    """Told after each step, when its row is in the history."""

    memory: MemoryProfile
    mfu_meter: MfuMeter
    loggers: LoggerContainer
    console_line: ConsoleLine

    def log_step(self) -> str:
        """Show the newest step everywhere; the words for the progress bar."""
        self.memory.mark("first step")
        self.loggers.log_latest()
        return self.console_line.render()

    def record_metrics(self, audit: MetricRecorder, seq_len: int, start_steps: Sequence[int]) -> None:
        """What memory was held, what the device can do, what a token needs, and what share was used, as figures."""
        mfu = median(self.mfu_meter.compute(row)["mfu"] for row in steady_state_rows(self.loggers.history, start_steps))
        description = f"of training on a token of a row of {seq_len}, forward and backward, by the closed form"
        audit.add_count("flops_per_token", self.mfu_meter.flops_per_token(seq_len), "FLOP", description)
        audit.add_measurement(
            "matmul_peak",
            self.mfu_meter.peak_flops,
            "FLOP/s",
            "a large matrix product at this precision, all processes: best of a few before the first step and, by one, after the last",
        )
        audit.add_measurement(
            "mfu", mfu, "share", "closed-form FLOP/s over matmul_peak, median over real optimizer steps, the first few left out"
        )
        self.memory.record_metrics(audit)


def build_instrumentation(
    history: StepHistory,
    eval_term: str,
    config: TrainConfig,
    mfu_meter: MfuMeter,
    memory: MemoryProfile,
    csv_path: Path,
    log_dir: Path,
) -> Instrumentation:
    """Begin to watch: brings `curves` (a CSV) and the sinks below `folder` up to `history`."""
    loggers = [CsvLogger(csv_path, eval_term), *trackers.build_loggers(config.loggers, log_dir)]
    console_line = ConsoleLine(history, eval_term, mfu_meter, config.total_steps, lambda: memory_allocated(memory.device))
    return Instrumentation(memory, mfu_meter, LoggerContainer(history, mfu_meter, loggers), console_line)
