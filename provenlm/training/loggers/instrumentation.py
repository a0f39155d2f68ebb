"""Connect a running training to its loggers and performance meters.

They are the progress line, a CSV for DVC plots, TensorBoard or DVCLive, and summary metrics.
"""

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
from provenlm.training.loggers.mfu import MfuMeter, steady_state_rows
from provenlm.training.memory import MemoryProfile, memory_allocated


@dataclass(frozen=True)
class Instrumentation:
    """Log each step once its row is in the history."""

    memory: MemoryProfile
    mfu_meter: MfuMeter
    loggers: LoggerContainer
    console_line: ConsoleLine

    def log_step(self) -> str:
        """Send the latest step to all loggers; return the text of the progress line."""
        self.memory.mark("first step")
        self.loggers.log_latest()
        return self.console_line.render()

    def record_metrics(self, audit: MetricRecorder, seq_len: int, start_steps: Sequence[int]) -> None:
        """Record FLOPs, measured peak, MFU and memory as metrics."""
        mfu = median(self.mfu_meter.compute(row)["mfu"] for row in steady_state_rows(self.loggers.history, start_steps))
        description = f"Closed-form FLOPs of training on one token, forward and backward, at sequence length {seq_len}"
        audit.add_count("flops_per_token", self.mfu_meter.flops_per_token(seq_len), "FLOP", description)
        description = "Measured peak of a large matrix product at the training precision, summed over all processes"
        audit.add_measurement("measured_peak_flops", self.mfu_meter.peak_flops, "FLOP/s", description)
        description = (
            "Model FLOPs utilisation: closed-form FLOP/s over measured peak FLOP/s, median over applied steps after warm-up"
        )
        audit.add_measurement("mfu", mfu, "fraction", description)
        audit.add_check("mfu", "0..1", "the machine was busy while its peak FLOP/s were measured: train again")
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
    """Build the loggers and replay `history` into them.

    `csv_path` is the CSV for DVC plots; the trackers write below `log_dir`.
    """
    loggers = [CsvLogger(csv_path, eval_term), *trackers.build_loggers(config.loggers, log_dir)]
    console_line = ConsoleLine(history, eval_term, mfu_meter, config.total_steps, lambda: memory_allocated(memory.device))
    return Instrumentation(memory, mfu_meter, LoggerContainer(history, mfu_meter, loggers), console_line)
