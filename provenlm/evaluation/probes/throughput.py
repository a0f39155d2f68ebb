"""A net and lengths in; tokens per second of real forward passes, and the memory that they take, beside a reference in the same run, out.

Passes are warmed up, synchronised and repeated, those of the net and of the reference in turn: what else the machine does falls on both.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from provenlm.core import rng
from provenlm.core.audit import Recorder, Series
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.probes import peak_memory
from provenlm.evaluation.probes.hf_reference import counterpart

WARM = 3  # passes that are not timed: allocators and kernels settle

Pass = Callable[[Tensor], Tensor]


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
        other = counterpart(subject)
        name = None if isinstance(other, str) else f"{other.name} of transformers"
        passes: dict[str, Pass] = {"net": lambda tokens_BT: subject.logits(subject.model, tokens_BT)}
        if not isinstance(other, str):
            passes["reference"] = other.logits
        where = f"one row forward on {subject.device.type}, {torch.get_num_threads()} threads, {settings.repeats} timed passes"
        rates = [_rates(subject, passes, length, settings.repeats) for length in settings.lengths]
        peaks = _peaks(subject, passes, settings.lengths)
        for length, rate, peak in zip(settings.lengths, rates, peaks, strict=True):
            with figures.under(f"length_{length}") as inner:
                _record(inner, rate, peak, where, name)
        x = [float(length) for length in settings.lengths]
        medians = {f"{who}, median": [_quantile(rate[who], 0.5) for rate in rates] for who in passes}
        slow = {"net, p95": [_quantile(rate["net"], 0.95) for rate in rates]}
        figures.series.append(
            Series("by_length", "lines", f"speed by length: {where}", "length (tokens)", "tokens/s", x, {**medians, **slow})
        )
        if all(peaks):
            lines = {who: [float(peak[who]) for peak in peaks] for who in passes}
            meaning = "most bytes that a pass holds beside the weights, by the allocator"
            figures.series.append(Series("memory_by_length", "lines", meaning, "length (tokens)", "bytes", x, lines))

    return probe


def _record(
    figures: Recorder, rates: Mapping[str, Sequence[float]], peaks: Mapping[str, int], where: str, reference: str | None
) -> None:
    """`rates`: tokens per second of each pass, of the net and of the reference in turn; `peaks`: bytes."""
    figures.measured("median", _quantile(rates["net"], 0.5), "tokens/s", f"median: {where}")
    figures.measured("p95", _quantile(rates["net"], 0.95), "tokens/s", f"reached by 95 % of passes: {where}")
    if peaks:
        figures.measured("peak", peaks["net"], "bytes", "most that a pass holds beside the weights, by the allocator")
    if reference is None:
        return
    figures.measured(
        "reference.median", _quantile(rates["reference"], 0.5), "tokens/s", f"{reference} in the same run, median: {where}"
    )
    ratios = np.array(rates["net"]) / np.array(rates["reference"])
    meaning = f"speed of the net over that of {reference}, median over pairs of passes one after the other"
    figures.measured("reference.ratio", float(np.median(ratios)), "ratio", meaning)
    if peaks:
        figures.measured("reference.peak", peaks["reference"], "bytes", f"the same of {reference}")


def _quantile(rates: Sequence[float], slowest: float) -> float:
    """The rate that this share of passes reaches."""
    return float(np.quantile(rates, 1 - slowest))


@torch.inference_mode()
def _rates(subject: Subject, passes: Mapping[str, Pass], length: int, repeats: int) -> dict[str, list[float]]:
    """Tokens per second of each timed pass."""
    tokens_BT, wait = _tokens(subject, length), _waiter(subject.device)
    for _ in range(WARM):
        for forward in passes.values():
            forward(tokens_BT)
    found: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, forward in passes.items():
            wait()
            begin = time.perf_counter()
            forward(tokens_BT)
            wait()
            found[name].append(length / (time.perf_counter() - begin))
    return found


@torch.inference_mode()
def _peaks(subject: Subject, passes: Mapping[str, Pass], lengths: Sequence[int]) -> list[dict[str, int]]:
    """Bytes by length and pass; empty where the device's allocator does not say."""
    names = [(length, name) for length in lengths for name in passes]
    found = peak_memory.peaks([partial(passes[name], _tokens(subject, length)) for length, name in names], subject.device)
    by_name = dict(zip(names, found, strict=True)) if found else {}
    return [{name: by_name[length, name] for name in passes} if by_name else {} for length in lengths]


def _tokens(subject: Subject, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng.seed_of(subject.seed, "speed", length))
    return torch.randint(subject.tokens.vocabulary, (1, length), generator=generator).to(subject.device)


def _waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all it was asked to."""
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
