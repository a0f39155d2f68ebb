"""A net and lengths in, tokens per second of real forward passes out: warmed up, synchronised, repeated."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from provenlm.core import rng
from provenlm.core.audit import Recorder, Series
from provenlm.validation.probe import Probe, Subject

WARM = 3  # passes that are not timed: allocators and kernels settle


@dataclass(frozen=True)
class Settings:
    """The `speed` section of validate, typed."""

    lengths: tuple[int, ...]
    repeats: int

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1 or len(set(self.lengths)) < len(self.lengths):
            raise ValueError("lengths must name at least one length, each at least 1 and once")
        if self.repeats < 5:
            raise ValueError(f"repeats is {self.repeats}; at least 5 are needed to speak of a median")


def speed(settings: Settings) -> Probe:
    """Time one row of each length; ValueError for a length beyond the training's."""

    def probe(subject: Subject, figures: Recorder) -> None:
        if max(settings.lengths) > subject.length:
            raise ValueError(
                f"speed.lengths goes to {max(settings.lengths)}; the net was trained on at most {subject.length} positions"
            )
        where = f"one row forward on {subject.device.type}, {torch.get_num_threads()} threads, {settings.repeats} timed passes"
        rates: dict[str, list[float]] = {"median": [], "p95": []}
        for length in settings.lengths:
            seconds = _seconds(subject, length, settings.repeats)
            for name, share, meaning in (("median", 0.5, "median"), ("p95", 0.95, "reached by 95 % of passes")):
                rate = length / float(np.quantile(seconds, share))
                rates[name].append(rate)
                figures.measured(f"length_{length}.{name}", rate, "tokens/s", f"{meaning}: {where}")
        x = [float(length) for length in settings.lengths]
        figures.series.append(Series("by_length", "lines", f"speed by length: {where}", "length (tokens)", "tokens/s", x, rates))

    return probe


@torch.inference_mode()
def _seconds(subject: Subject, length: int, repeats: int) -> list[float]:
    generator = torch.Generator().manual_seed(rng.seed_of(subject.seed, "speed", length))
    tokens_BT = torch.randint(subject.tokens.vocabulary, (1, length), generator=generator).to(subject.device)
    wait = _waiter(subject.device)
    for _ in range(WARM):
        subject.logits(subject.model, tokens_BT)
    found = []
    for _ in range(repeats):
        wait()
        begin = time.perf_counter()
        subject.logits(subject.model, tokens_BT)
        wait()
        found.append(time.perf_counter() - begin)
    return found


def _waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all it was asked to."""
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
