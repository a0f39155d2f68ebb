"""A device in, the arithmetic that it reaches at best out; and what share of that a training step used."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from provenlm.training.callbacks.history import History, Row

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WIDTHS = {"cuda": 8192, "mps": 4096, "cpu": 1024}  # wide enough that starting a product costs nothing beside it
REPEATS = 8
WARMING = 3  # steps


def matmul_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a square matrix product on `device` with torch's current threads: the best of a few, after one to warm up.

    Draws no random numbers. A product of widths n, n, n counts 2·n³ operations.
    """
    width = WIDTHS[device.type]
    matrix = torch.ones(width, width, device=device, dtype=TYPES[precision])
    out = torch.empty_like(matrix)
    seconds = []
    for _ in range(1 + REPEATS):
        _wait(device)
        begin = time.perf_counter()
        torch.mm(matrix, matrix, out=out)
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    return float(2 * width**3 / min(seconds[1:]))


def _wait(device: torch.device) -> None:
    """Until the device has done all that it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Meter:
    """`flops(length)` are those of training on one token of a row of `length`; `peak` is FLOP/s, of all processes together."""

    flops: Callable[[int], int]
    peak: float

    def rates(self, row: Row) -> dict[str, float]:
        """Targets a second and the share of the peak (MFU: Chowdhery et al. 2022, arXiv 2204.02311, appendix B) of a history's row.

        The operations are those that the net needs by its closed form, forward and backward, whatever was computed again to
        save memory; padded positions count, because they are computed.
        """
        seconds, positions = float(row["seconds"] or 0), int(row["positions"] or 0)
        needed = self.flops(positions // int(row["rows"] or 1)) * positions
        return {"tokens_per_second": float(row["targets"] or 0) / seconds, "mfu": needed / seconds / self.peak}

    def by(self, peak: float) -> "Meter":
        """The same by the larger of both peaks: one measured while the device had other work too is none, and lets shares exceed 1."""
        return replace(self, peak=max(self.peak, peak))


def real(history: History, begun: Sequence[int]) -> list[Row]:
    """The rows whose times say how fast training is: of updates that were applied, without the first few of each process.

    `begun`: the steps after which the processes began. Those first steps allocate memory and choose kernels. Where nothing else is
    there, they are taken.
    """
    applied = [row for row in history.lasting() if not (row.get("skipped") or row.get("overflow"))] or history.lasting()
    warm = [row for row in applied if not any(begin < int(row["step"] or 0) <= begin + WARMING for begin in begun)]
    return warm or applied
