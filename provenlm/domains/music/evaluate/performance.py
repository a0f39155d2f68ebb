"""Measure passes, steps and generation at several sequence lengths.

That is the time, its spread, and the peak memory.
Batches are real training sequences; every length is warmed up and repeated.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from provenlm.core import rng
from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.domains.music.evaluate.config import MusicEvalConfig, PerformanceConfig
from provenlm.domains.music.evaluate.pieces import latent_stream
from provenlm.evaluation.generate import logits_provider
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes import peak_memory
from provenlm.models.common.objective import Batch
from provenlm.models.common.spec import LatentSample
from provenlm.models.generation import sampling as sampler
from provenlm.models.generation.latent_generation import generate_from_latents
from provenlm.models.generation.sampling import SamplingConfig
from provenlm.training.config_sections import CheckpointConfig, LRScheduleConfig

# a training that does nothing but its steps
BARE_TRAINING: Mapping[str, Any] = {
    "seq_len_schedule": None,
    "micro_batch_size": None,
    "eval": None,
    "reduce_lr_on_plateau": None,
    "early_stopping": None,
    "checkpoints": CheckpointConfig(),
    "lr_schedule": LRScheduleConfig(warmup_steps=0),
}
PLAIN = SamplingConfig()
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Timing:
    """Hold the seconds of repetitions of one operation.

    Beside them the tokens of each, and the peak memory beyond the weights.
    `peak_bytes` is None on a device whose allocator has no count, and where it was not measured.
    """

    seconds: Sequence[float]
    num_tokens: int
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Return the median seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Return the interquartile range of the seconds."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(high - low)

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens per second of the median repetition."""
        return self.num_tokens / self.median


def performance_probe(config: MusicEvalConfig) -> Probe:
    """Return the probe of speed and memory."""
    return Probe(lambda context, metrics: record_performance(context, metrics, config.performance))


def record_performance(context: EvalContext, metrics: MetricRecorder, config: PerformanceConfig) -> None:
    """Record every operation at every length that the model accepts."""
    longest = context.max_positions or context.max_seq_len
    seq_lens = [length for length in config.seq_lens if length <= longest] or [longest]
    rows: list[tuple[int | float | str, ...]] = []
    rates: dict[str, list[float]] = {}
    setup = (
        f"{config.batch_size} sequences on {context.device.type}, {torch.get_num_threads()} threads, {config.num_iters} repetitions"
    )
    for seq_len in seq_lens:
        timings = measure_length(context, config, seq_len)
        with metrics.scope(f"seq_{seq_len}") as inner:
            for name, timing in timings.items():
                _record_timing(inner, name, timing, setup)
                peak = "" if timing.peak_bytes is None else round(timing.peak_bytes / MEBIBYTE, 1)
                rows.append(
                    (seq_len, name, round(timing.median, 5), round(timing.spread, 5), round(timing.tokens_per_second), peak)
                )
                rates.setdefault(name, []).append(timing.tokens_per_second)
    metrics.add_count("longest_seq_len", max(seq_lens), "tokens", "Longest sequence that was measured")
    columns = ("length", "operation", "median (s)", "interquartile range (s)", "tokens/s", "peak memory (MiB)")
    metrics.tables.append(AuditTable("operations", f"Speed and peak memory beyond the weights: {setup}", columns, rows))
    x = [float(seq_len) for seq_len in seq_lens]
    metrics.series.append(
        PlotSeries("by_seq_len", "line", f"Speed by sequence length: {setup}", "sequence length (tokens)", "tokens/s", x, rates)
    )


def _record_timing(metrics: MetricRecorder, name: str, timing: Timing, setup: str) -> None:
    metrics.add_measurement(f"{name}.seconds", timing.median, "s", f"Median time of {name}: {setup}")
    metrics.add_measurement(f"{name}.spread_seconds", timing.spread, "s", f"Interquartile range of the time of {name}: {setup}")
    metrics.add_measurement(f"{name}.tokens_per_second", timing.tokens_per_second, "tokens/s", f"Speed of {name}: {setup}")
    if timing.peak_bytes is not None:
        description = f"Peak memory of {name} beyond the weights, by the allocator"
        metrics.add_measurement(f"{name}.peak_memory_bytes", timing.peak_bytes, "bytes", description)


def measure_length(context: EvalContext, config: PerformanceConfig, seq_len: int) -> dict[str, Timing]:
    """Measure `forward`, `step` and `generation` at one length."""
    if context.make_trainer is None:
        raise ValueError("the context must be able to assemble a training, got none")
    num_steps = config.num_warmup + config.num_iters + 1
    changes: dict[str, Any] = {**BARE_TRAINING, "seq_len": seq_len, "global_batch_size": config.batch_size, "max_steps": num_steps}
    if context.token_batches:
        changes["data_packing"] = "concat_and_chunk"
    with torch.random.fork_rng():
        trainer = context.make_trainer(copy.deepcopy(context.model), context.tokens, changes)
        batch: Batch = trainer.dataloader.batch_at(0, config.batch_size).map(lambda tensor: tensor.to(context.device))
        forward = _time(lambda: _forward(context, batch), config, batch.num_sequences * batch.seq_len, context.device)
        steps = trainer.steps()
        seconds = [next(steps).seconds for _ in range(num_steps - 1)]
        step_peak = peak_memory.peak_bytes([lambda: next(steps)], context.device)
        step = Timing(seconds[config.num_warmup :], batch.num_sequences * batch.seq_len, step_peak[0] if step_peak else None)
        generation = _time_generation(context, config, batch, seq_len)
    return {"forward": forward, "step": step, "generation": generation}


@torch.inference_mode()
def _forward(context: EvalContext, batch: Any) -> None:
    """Compute the logits of a batch; for a model with latents, the losses of its targets."""
    if context.latent is None:
        context.logits(context.model, batch.inputs_BT)
    else:
        context.latent.token_nats(context.model, batch, context.latent.posterior(context.model, batch).mean_BNZ)


def _time(operation: Callable[[], None], config: PerformanceConfig, num_tokens: int, device: torch.device) -> Timing:
    for _ in range(config.num_warmup):
        operation()
    seconds = []
    for _ in range(config.num_iters):
        _synchronize(device)
        start = time.perf_counter()
        operation()
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    peaks = peak_memory.peak_bytes([operation], device)
    return Timing(seconds, num_tokens, peaks[0] if peaks else None)


def _time_generation(context: EvalContext, config: PerformanceConfig, batch: Any, seq_len: int) -> Timing:
    """Time the tokens after a prompt that fills the rest of the length; a model with latents generates from their means alone."""
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "generation speed"))
    if context.latent is not None:
        posterior = context.latent.posterior(context.model, batch)
        sample = LatentSample(posterior.mean_BNZ, getattr(batch, "attributes_BNA", None))
        stream, seconds = latent_stream(context), []
        for _ in range(config.num_warmup + config.num_iters):
            start = time.perf_counter()
            outputs = generate_from_latents(
                context.latent, context.model, sample, stream, PLAIN, 4 * config.num_generated, generator
            )
            seconds.append((time.perf_counter() - start) / max(map(len, outputs)))
        return Timing(seconds[config.num_warmup :], len(sample.latents_BNZ))
    prompts = batch.inputs_BT[:, : seq_len - config.num_generated].tolist()
    provider = logits_provider(replace(context, max_seq_len=seq_len))
    stamps = []
    for _ in sampler.generate_stream(provider, prompts, PLAIN, config.num_generated, None, generator):
        stamps.append(time.perf_counter())
    return Timing(np.diff(stamps).tolist(), len(prompts))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
