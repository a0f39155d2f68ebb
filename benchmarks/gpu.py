"""Time a training step of the 223M shape on a GPU against Mixtral and Llama.

The dense decoder is compared with Llama.

Each variant runs in bfloat16 with and without torch.compile, in its own process, with the same batch and weights. Without a GPU the
benchmark prints NOT RUN; `--device cpu --tiny` tries the code on a shape that says nothing about speed.
"""

import argparse
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from comparisons import hf_models, results, shapes
from comparisons.results import ResultRow

from provenlm.core import registry
from provenlm.models.common.spec import ModelSpec
from provenlm.training import memory
from provenlm.training.loggers.mfu import measure_peak_flops

NUM_WARMUP_STEPS = 3
MAX_LOSS_DIFFERENCE = 2e-2  # of the first losses in bfloat16; larger differences mean different models


@dataclass(frozen=True)
class StepVariant:
    """Describe a model of ours or, with `peer_config`, the same Hugging Face model.

    Both have the same weights.
    """

    name: str
    model_name: str
    peer_config: Mapping[str, Any] | None = None
    compiled: bool = False
    activation_checkpointing: bool = False


@dataclass(frozen=True)
class StepBenchmark:
    """Describe a variant with its model config and batch."""

    variant: StepVariant
    model_config: Any
    vocab_size: int
    batch_size: int
    seq_len: int
    device: str
    steps: int


@dataclass(frozen=True)
class StepBenchmarkResult:
    """Hold the times of a step; the first step includes compilation."""

    name: str
    model_name: str
    median_ms: float
    min_ms: float
    max_ms: float
    first_seconds: float
    tokens_per_second: float
    tflops: float
    mfu: float
    peak_bytes: int
    first_loss: float

    def result_rows(self) -> list[ResultRow]:
        """Return the values as rows of a result file."""
        return [
            ResultRow(f"{self.name}: step", self.median_ms, "ms"),
            ResultRow(f"{self.name}: speed", self.tokens_per_second, "tokens/s"),
            ResultRow(f"{self.name}: MFU", self.mfu, "fraction"),
            ResultRow(f"{self.name}: peak memory", self.peak_bytes / (1 << 30), "GiB"),
            ResultRow(f"{self.name}: first step", self.first_seconds, "s"),
        ]


MIXTRAL_CONFIG = {"output_router_logits": True}
VARIANTS = (
    StepVariant("MoE, ours", "moe"),
    StepVariant("MoE, ours, compiled", "moe", compiled=True),
    StepVariant("MoE, ours, activation checkpointing", "moe", activation_checkpointing=True),
    StepVariant("Mixtral, grouped_mm", "moe", {**MIXTRAL_CONFIG, "experts_implementation": "grouped_mm"}),
    StepVariant("Mixtral, grouped_mm, compiled", "moe", {**MIXTRAL_CONFIG, "experts_implementation": "grouped_mm"}, compiled=True),
    StepVariant("Mixtral, eager", "moe", {**MIXTRAL_CONFIG, "experts_implementation": "eager"}),
    StepVariant("dense, ours", "gpt"),
    StepVariant("dense, ours, compiled", "gpt", compiled=True),
    StepVariant("Llama", "gpt", {}),
    StepVariant("Llama, compiled", "gpt", {}, compiled=True),
)


def run_benchmark(benchmark: StepBenchmark) -> StepBenchmarkResult:
    """Take warm-up steps and then timed steps.

    Each waits for its loss, so that the clock covers the complete step.
    """
    transformers.logging.set_verbosity_error()
    torch._logging.set_logs(dynamo=logging.ERROR, inductor=logging.ERROR)
    variant, device = benchmark.variant, torch.device(benchmark.device)
    spec = registry.load_model(variant.model_name, ModelSpec)
    batch = hf_models.random_batch(benchmark.vocab_size, benchmark.batch_size, benchmark.seq_len, benchmark.device)
    model = hf_models.build_ours(spec, benchmark.model_config, benchmark.vocab_size)
    if variant.peer_config is None:
        model = model.to(device)
        blocks = spec.blocks(model)
        blocks.blocks_per_checkpoint = 1 if variant.activation_checkpointing else None
        loss = hf_models.our_loss(spec, model, batch)
        for block in blocks if variant.compiled else ():
            block.compile()
    else:
        model = hf_models.build_peer(spec, benchmark.model_config, model, benchmark.vocab_size, **variant.peer_config).to(device)
        loss = hf_models.peer_loss(model, batch)
        if variant.compiled:
            model.compile()
    train_step, losses, seconds = hf_models.make_train_step(model, loss, True, benchmark.device), [], []
    for _ in range(NUM_WARMUP_STEPS + benchmark.steps):
        start = time.perf_counter()
        losses.append(train_step())
        seconds.append(time.perf_counter() - start)
    timed = seconds[NUM_WARMUP_STEPS:]
    tokens_per_second = benchmark.batch_size * benchmark.seq_len / statistics.median(timed)
    flops = tokens_per_second * spec.flops_per_token(benchmark.model_config, benchmark.vocab_size, benchmark.seq_len)
    return StepBenchmarkResult(
        name=variant.name,
        model_name=variant.model_name,
        median_ms=1e3 * statistics.median(timed),
        min_ms=1e3 * min(timed),
        max_ms=1e3 * max(timed),
        first_seconds=seconds[0],
        tokens_per_second=tokens_per_second,
        tflops=flops / 1e12,
        mfu=flops / measure_peak_flops(device, "bf16"),
        peak_bytes=memory.max_memory_allocated(device),
        first_loss=losses[0],
    )


def make_benchmarks(options: argparse.Namespace) -> list[StepBenchmark]:
    """Return all selected variants on the 223M shape, or on a tiny one."""
    moe_config, dense_config, vocab_size = shapes.MOE_223M, shapes.DENSE, shapes.VOCAB_SIZE
    if options.tiny:
        tiny = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": options.seq_len}
        moe_config, dense_config, vocab_size = replace(moe_config, **tiny), replace(dense_config, **tiny), 256
    return [
        StepBenchmark(
            variant,
            moe_config if variant.model_name == "moe" else dense_config,
            vocab_size,
            options.batch_size,
            options.seq_len,
            options.device,
            4 if options.quick else options.steps,
        )
        for variant in VARIANTS
        if options.only is None or options.only in variant.name
    ]


def print_result(result: StepBenchmarkResult) -> None:
    """Print one line of the table."""
    print(
        f"  {result.name:36}{result.median_ms:9.1f}{result.min_ms:9.1f}{result.max_ms:9.1f}{result.first_seconds:9.1f}"
        f"{result.tokens_per_second:11,.0f}{result.tflops:9.1f}{result.mfu:7.1%}{result.peak_bytes / (1 << 30):7.1f}",
        flush=True,
    )


def check_first_losses(measured: Sequence[StepBenchmarkResult]) -> None:
    """Exit with status 1 if the first losses of the variants of a model differ.

    Then they are different models.
    """
    for model_name in ("moe", "gpt"):
        first_losses = {result.name: result.first_loss for result in measured if result.model_name == model_name}
        if first_losses and max(first_losses.values()) - min(first_losses.values()) > MAX_LOSS_DIFFERENCE:
            print(f"first losses differ, so these are different models: {first_losses}", file=sys.stderr)
            sys.exit(1)


def main() -> None:
    """Time all variants, print the table and write benchmarks/results/gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "4 timed steps")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use a small shape, to try the code")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--seq-len", type=int, default=2048, metavar="N")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="number of timed steps (default: 20)")
    parser.add_argument("--only", metavar="TEXT", help="time only variants whose name contains TEXT")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("training step on a GPU: NOT RUN, there is no GPU")
        return
    device_name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{device_name}, torch {torch.__version__}; {options.batch_size} × {options.seq_len} tokens, bf16")
    print(f"  {'':36}{'ms':>9}{'min':>9}{'max':>9}{'first s':>9}{'tokens/s':>11}{'TFLOP/s':>9}{'MFU':>7}{'GiB':>7}")
    measured: list[StepBenchmarkResult] = []
    for benchmark in make_benchmarks(options):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            try:
                result = executor.submit(run_benchmark, benchmark).result()
            except RuntimeError as error:  # out of memory, or a kernel that does not exist
                print(f"  {benchmark.variant.name:36}NOT RUN: {str(error).splitlines()[0]}", flush=True)
                continue
        measured.append(result)
        print_result(result)
    check_first_losses(measured)
    results.save_results("gpu", [row for result in measured for row in result.result_rows()], options)


if __name__ == "__main__":
    main()
