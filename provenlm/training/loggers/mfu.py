"""Measure a device's peak FLOP/s and compute model FLOPs utilisation (MFU)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from provenlm.training.callbacks.history import HistoryRow, StepHistory
from provenlm.training.device import is_dtype_emulated

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MATRIX_WIDTHS = {"cuda": 8192, "mps": 4096, "cpu": 1024}  # wide enough to hide the launch cost
EMULATED_WIDTH = 256  # software products are slow at any width
REPEATS = 8
WARMUP_STEPS = 3


def measure_peak_flops(device: torch.device, precision: str) -> float:
    """Measure the FLOP/s of a square matrix product: the best of several runs.

    One warm-up run comes first. A product of widths n, n, n counts 2·n³ operations. Draws no random numbers.
    """
    width = EMULATED_WIDTH if is_dtype_emulated(device, precision) else MATRIX_WIDTHS[device.type]
    matrix = torch.ones(width, width, device=device, dtype=DTYPES[precision])
    out = torch.empty_like(matrix)
    seconds = []
    for _ in range(1 + REPEATS):
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(matrix, matrix, out=out)
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return float(2 * width**3 / min(seconds[1:]))


def _synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class MfuMeter:
    """Compute throughput and MFU of a history row.

    `flops_per_token(seq_len)` is the training FLOPs of one token; `peak_flops` the measured FLOP/s of all processes together.
    """

    flops_per_token: Callable[[int], int]
    peak_flops: float

    def compute(self, row: HistoryRow) -> dict[str, float]:
        """Return targets per second and MFU of a history row.

        MFU as in Chowdhery et al. 2022, arXiv 2204.02311, appendix B: FLOPs are the closed form of the model, forward and backward, without
        recomputation. Padded positions count, because they are computed.
        """
        seconds, num_positions = float(row["seconds"] or 0), int(row["num_positions"] or 0)
        flops = self.flops_per_token(num_positions // int(row["num_sequences"] or 1)) * num_positions
        return {"tokens_per_second": float(row["num_targets"] or 0) / seconds, "mfu": flops / seconds / self.peak_flops}

    def with_peak(self, peak_flops: float) -> "MfuMeter":
        """Return a meter with the larger of both peaks.

        A peak measured while the device was busy is too low and would give an MFU above 1.
        """
        return replace(self, peak_flops=max(self.peak_flops, peak_flops))


def steady_state_rows(history: StepHistory, start_steps: Sequence[int]) -> list[HistoryRow]:
    """Return the rows that show the steady-state speed.

    They are the applied updates without the first `WARMUP_STEPS` steps of each process, which allocate memory and select kernels;
    `start_steps` are the steps after which processes started. Without any such row, the other rows are returned.
    """
    rows = history.effective_rows()
    applied = [row for row in rows if not (row.get("skip_reason") or row.get("overflow_reason"))] or rows
    warm = [row for row in applied if not any(start < int(row["step"] or 0) <= start + WARMUP_STEPS for start in start_steps)]
    return warm or applied
