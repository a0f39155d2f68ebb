"""A device in, the arithmetic that it reaches at best out; and what share of that a training step used."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from provenlm.training.callbacks.history import HistoryRow, StepHistory

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MATRIX_WIDTHS = {"cuda": 8192, "mps": 4096, "cpu": 1024}  # wide enough that starting a product costs nothing beside it
REPEATS = 8
WARMUP_STEPS = 3  # steps


def measure_peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of a square matrix product on `device` with torch's current threads: the best of a few, after one to warm up.

    Draws no random numbers. A product of widths n, n, n counts 2·n³ operations.
    """
    width = MATRIX_WIDTHS[device.type]
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
    """Until the device has done all that it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class MfuMeter:
    """`flops(length)` are those of training on one token of a row of `length`; `peak` is FLOP/s, of all processes together."""

    flops_per_token: Callable[[int], int]
    peak_flops: float

    def compute(self, row: HistoryRow) -> dict[str, float]:
        """Targets a second and the share of the peak (MFU: Chowdhery et al. 2022, arXiv 2204.02311, appendix B) of a history's row.

        The operations are those that the net needs by its closed form, forward and backward, whatever was computed again to
        save memory; padded positions count, because they are computed.
        """
        seconds, num_positions = float(row["seconds"] or 0), int(row["positions"] or 0)
        flops = self.flops_per_token(num_positions // int(row["rows"] or 1)) * num_positions
        return {"tokens_per_second": float(row["targets"] or 0) / seconds, "mfu": flops / seconds / self.peak_flops}

    def with_peak(self, peak_flops: float) -> "MfuMeter":
        """The same by the larger of both peaks: one measured while the device had other work too is none, and lets shares exceed 1."""
        return replace(self, peak=max(self.peak_flops, peak_flops))


def steady_state_rows(history: StepHistory, start_steps: Sequence[int]) -> list[HistoryRow]:
    """The rows whose times say how fast training is: of updates that were applied, without the first few of each process.

    `begun`: the steps after which the processes began. Those first steps allocate memory and choose kernels. Where nothing else is
    there, they are taken.
    """
    applied = [
        row for row in history.effective_rows() if not (row.get("skipped") or row.get("overflow"))
    ] or history.effective_rows()
    warm = [row for row in applied if not any(start < int(row["step"] or 0) <= start + WARMUP_STEPS for start in start_steps)]
    return warm or applied
