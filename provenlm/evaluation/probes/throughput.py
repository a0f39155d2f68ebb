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
from provenlm.core.audit import MetricRecorder, PlotSeries
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes import peak_memory
from provenlm.evaluation.probes.hf_reference import hf_reference

NUM_WARMUP = 3  # passes that are not timed: allocators and kernels settle

ForwardPass = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ThroughputConfig:
    """The `speed` section of validate, typed."""

    seq_lens: tuple[int, ...]
    num_iters: int

    def __post_init__(self) -> None:
        if not self.seq_lens or min(self.seq_lens) < 1 or len(set(self.seq_lens)) < len(self.seq_lens):
            raise ValueError("lengths must name at least one length, each at least 1 and once")
        if self.num_iters < 5:
            raise ValueError(f"repeats is {self.num_iters}; at least 5 are needed to speak of a median")


def throughput_probe(config: ThroughputConfig) -> Probe:
    """Time one row of each length; ValueError for a length beyond the training's."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        if max(config.seq_lens) > context.max_seq_len:
            raise ValueError(
                f"speed.lengths goes to {max(config.seq_lens)}; the net was trained on at most {context.max_seq_len} positions"
            )
        reference = hf_reference(context)
        reference_name = None if isinstance(reference, str) else f"{reference.class_name} of transformers"
        passes: dict[str, ForwardPass] = {"net": lambda tokens_BT: context.logits(context.model, tokens_BT)}
        if not isinstance(reference, str):
            passes["reference"] = reference.logits
        setup = f"one row forward on {context.device.type}, {torch.get_num_threads()} threads, {config.num_iters} timed passes"
        rates = [_measure_rates(context, passes, seq_len, config.num_iters) for seq_len in config.seq_lens]
        peaks = _measure_peaks(context, passes, config.seq_lens)
        for seq_len, rate, peak in zip(config.seq_lens, rates, peaks, strict=True):
            with metrics.scope(f"length_{seq_len}") as inner:
                _record_throughput(inner, rate, peak, setup, reference_name)
        x = [float(seq_len) for seq_len in config.seq_lens]
        medians = {f"{pass_name}, median": [_quantile(rate[pass_name], 0.5) for rate in rates] for pass_name in passes}
        p95 = {"net, p95": [_quantile(rate["net"], 0.95) for rate in rates]}
        metrics.series.append(
            PlotSeries("by_length", "lines", f"speed by length: {setup}", "length (tokens)", "tokens/s", x, {**medians, **p95})
        )
        if all(peaks):
            lines = {pass_name: [float(peak[pass_name]) for peak in peaks] for pass_name in passes}
            description = "most bytes that a pass holds beside the weights, by the allocator"
            metrics.series.append(PlotSeries("memory_by_length", "lines", description, "length (tokens)", "bytes", x, lines))

    return probe


def _record_throughput(
    metrics: MetricRecorder, rates: Mapping[str, Sequence[float]], peaks: Mapping[str, int], setup: str, reference: str | None
) -> None:
    """`rates`: tokens per second of each pass, of the net and of the reference in turn; `peaks`: bytes."""
    metrics.add_measurement("median", _quantile(rates["net"], 0.5), "tokens/s", f"median: {setup}")
    metrics.add_measurement("p95", _quantile(rates["net"], 0.95), "tokens/s", f"reached by 95 % of passes: {setup}")
    if peaks:
        metrics.add_measurement("peak", peaks["net"], "bytes", "most that a pass holds beside the weights, by the allocator")
    if reference is None:
        return
    metrics.add_measurement(
        "reference.median", _quantile(rates["reference"], 0.5), "tokens/s", f"{reference} in the same run, median: {setup}"
    )
    ratios = np.array(rates["net"]) / np.array(rates["reference"])
    description = f"speed of the net over that of {reference}, median over pairs of passes one after the other"
    metrics.add_measurement("reference.ratio", float(np.median(ratios)), "ratio", description)
    if peaks:
        metrics.add_measurement("reference.peak", peaks["reference"], "bytes", f"the same of {reference}")


def _quantile(rates: Sequence[float], fraction: float) -> float:
    """The rate that this share of passes reaches."""
    return float(np.quantile(rates, 1 - fraction))


@torch.inference_mode()
def _measure_rates(context: EvalContext, passes: Mapping[str, ForwardPass], seq_len: int, num_iters: int) -> dict[str, list[float]]:
    """Tokens per second of each timed pass."""
    tokens_BT, synchronize = _random_tokens(context, seq_len), _synchronizer(context.device)
    for _ in range(NUM_WARMUP):
        for forward in passes.values():
            forward(tokens_BT)
    rates: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(num_iters):
        for name, forward in passes.items():
            synchronize()
            start = time.perf_counter()
            forward(tokens_BT)
            synchronize()
            rates[name].append(seq_len / (time.perf_counter() - start))
    return rates


@torch.inference_mode()
def _measure_peaks(context: EvalContext, passes: Mapping[str, ForwardPass], seq_lens: Sequence[int]) -> list[dict[str, int]]:
    """Bytes by length and pass; empty where the device's allocator does not say."""
    cases = [(seq_len, name) for seq_len in seq_lens for name in passes]
    peaks = peak_memory.peak_bytes(
        [partial(passes[name], _random_tokens(context, seq_len)) for seq_len, name in cases], context.device
    )
    by_name = dict(zip(cases, peaks, strict=True)) if peaks else {}
    return [{name: by_name[seq_len, name] for name in passes} if by_name else {} for seq_len in seq_lens]


def _random_tokens(context: EvalContext, seq_len: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "speed", seq_len))
    return torch.randint(context.tokens.vocab_size, (1, seq_len), generator=generator).to(context.device)


def _synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all it was asked to."""
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
