"""Measure the throughput and peak memory of forward passes.

Hugging Face is measured in the same run. Passes are warmed up, synchronised and repeated; model and reference alternate, so that
other load on the machine affects both.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from provenlm.core import rng
from provenlm.core.audit import MetricRecorder, PlotSeries
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes import peak_memory
from provenlm.evaluation.probes.hf_reference import hf_reference

NUM_WARMUP = 3  # untimed passes

ForwardPass = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ThroughputConfig:
    """Configure sequence lengths and the number of timed passes."""

    seq_lens: tuple[int, ...] | None = None  # null: an eighth, half and all of the training sequence length
    num_iters: int = 20

    def __post_init__(self) -> None:
        seq_lens = self.seq_lens
        if seq_lens is not None and (not seq_lens or min(seq_lens) < 1 or len(set(seq_lens)) < len(seq_lens)):
            raise ValueError(f"seq_lens must be distinct lengths >= 1, at least one, got {list(seq_lens)}")
        if self.num_iters < 5:
            raise ValueError(f"num_iters must be >= 5 for a median, got {self.num_iters}")

    def scale_to(self, seq_len: int) -> "ThroughputConfig":
        """Return the config with sequence lengths up to `seq_len` tokens."""
        seq_lens = sorted({max(1, seq_len // 8), max(1, seq_len // 2), seq_len})
        return self if self.seq_lens is not None else replace(self, seq_lens=tuple(seq_lens))


def throughput_probe(config: ThroughputConfig) -> Probe:
    """Return the probe that times one sequence of each length.

    The longest may be the longest training sequence.
    """

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        seq_lens = config.scale_to(context.max_seq_len).seq_lens
        assert seq_lens is not None
        if max(seq_lens) > context.max_seq_len:
            raise ValueError(
                f"throughput.seq_lens must be <= {context.max_seq_len}, the longest training sequence, got {max(seq_lens)}"
            )
        reference = None if context.to_hf is None else hf_reference(context)
        reference_name = None if reference is None else f"{reference.class_name} of transformers"
        passes: dict[str, ForwardPass] = {"model": lambda tokens_BT: context.logits(context.model, tokens_BT)}
        if reference is not None:
            passes["reference"] = reference.logits
        setup = f"one sequence forward on {context.device.type}, {torch.get_num_threads()} threads, {config.num_iters} timed passes"
        rates = [_measure_rates(context, passes, seq_len, config.num_iters) for seq_len in seq_lens]
        peaks = _measure_peaks(context, passes, seq_lens)
        for seq_len, rate, peak in zip(seq_lens, rates, peaks, strict=True):
            with metrics.scope(f"seq_{seq_len}") as inner:
                _record_throughput(inner, rate, peak, setup, reference_name)
        x = [float(seq_len) for seq_len in seq_lens]
        medians = {f"{pass_name}, median": [_quantile(rate[pass_name], 0.5) for rate in rates] for pass_name in passes}
        p95 = {"model, p95": [_quantile(rate["model"], 0.95) for rate in rates]}
        metrics.series.append(
            PlotSeries(
                "by_seq_len",
                "line",
                f"Throughput by sequence length: {setup}",
                "sequence length (tokens)",
                "tokens/s",
                x,
                {**medians, **p95},
            )
        )
        if all(peaks):
            lines = {pass_name: [float(peak[pass_name]) for peak in peaks] for pass_name in passes}
            description = "Peak memory of a forward pass beyond the weights, by the allocator"
            metrics.series.append(
                PlotSeries("memory_by_seq_len", "line", description, "sequence length (tokens)", "bytes", x, lines)
            )

    return Probe(probe, frozenset({"next_token_logits"}))


def _record_throughput(
    metrics: MetricRecorder, rates: Mapping[str, Sequence[float]], peaks: Mapping[str, int], setup: str, reference: str | None
) -> None:
    """Record the throughput and peak memory of the model and the reference.

    `rates`: tokens per second of each timed pass; `peaks`: bytes.
    """
    metrics.add_measurement("median", _quantile(rates["model"], 0.5), "tokens/s", f"Median throughput: {setup}")
    metrics.add_measurement("p95", _quantile(rates["model"], 0.95), "tokens/s", f"Throughput that 95 % of passes reach: {setup}")
    if peaks:
        description = "Peak memory of a forward pass of the model beyond the weights, by the allocator"
        metrics.add_measurement("peak_memory_bytes", peaks["model"], "bytes", description)
    if reference is None:
        return
    metrics.add_measurement(
        "hf_median", _quantile(rates["reference"], 0.5), "tokens/s", f"Median throughput of {reference} in the same run: {setup}"
    )
    ratios = np.array(rates["model"]) / np.array(rates["reference"])
    description = f"Throughput of the model relative to {reference}, median over pairs of successive passes"
    metrics.add_measurement("vs_hf", float(np.median(ratios)), "ratio", description)
    if peaks:
        description = f"Peak memory of a forward pass of {reference} beyond the weights, by the allocator"
        metrics.add_measurement("hf_peak_memory_bytes", peaks["reference"], "bytes", description)


def _quantile(rates: Sequence[float], fraction: float) -> float:
    """Return the rate that this fraction of passes reaches."""
    return float(np.quantile(rates, 1 - fraction))


@torch.inference_mode()
def _measure_rates(context: EvalContext, passes: Mapping[str, ForwardPass], seq_len: int, num_iters: int) -> dict[str, list[float]]:
    """Return the tokens per second of each timed pass by model."""
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
    """Return the peak bytes by sequence length and model.

    The mappings are empty if the allocator has no count.
    """
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
    """Return a function that waits until the device has finished all queued work."""
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
