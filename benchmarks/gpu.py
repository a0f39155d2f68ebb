"""Nothing in; out, milliseconds, tokens a second, MFU and peak memory of a training step of the whole 223M shape on a GPU.

Ours and Mixtral of Hugging Face, and the dense decoder of equal active size, ours and Llama, in bfloat16, each with and without
torch.compile, each in a process of its own with the same batch and weights. Where there is no GPU it says NOT RUN; `--device cpu --tiny`
tries the same code there on a shape that says nothing of speed.
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from comparisons import hf_models as peers

from provenlm.core import config, registry
from provenlm.models.common.spec import ModelSpec
from provenlm.training import memory
from provenlm.training.mfu import measure_peak_flops

ROOT = Path(__file__).resolve().parents[1]
MAX_LOSS_DIFFERENCE = 2e-2  # of the first losses in bfloat16: further apart, they are different models


@dataclass(frozen=True)
class StepVariant:
    """A net of ours, or with `peer`, which is told to its configuration, Hugging Face's model of it."""

    name: str
    model_name: str
    peer_config: Mapping[str, Any] | None = None
    compiled: bool = False
    activation_checkpointing: bool = False


@dataclass(frozen=True)
class StepBenchmark:
    """One way on one batch. Of `settings`, each net has its own."""

    variant: StepVariant
    model_config: Any
    vocab_size: int
    batch_size: int
    seq_len: int
    device: str
    steps: int


@dataclass(frozen=True)
class StepBenchmarkResult:
    """Milliseconds a step: median, least and most; seconds of the first step, which compiles; bytes; first and last loss."""

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
    losses: tuple[float, float]


MIXTRAL_CONFIG = {"output_router_logits": True}
VARIANTS = (
    StepVariant("mixture, ours", "moe"),
    StepVariant("mixture, ours, compiled", "moe", compiled=True),
    StepVariant("mixture, ours, recomputed", "moe", activation_checkpointing=True),
    StepVariant("Mixtral, grouped_mm", "moe", {**MIXTRAL_CONFIG, "experts_implementation": "grouped_mm"}),
    StepVariant("Mixtral, grouped_mm, compiled", "moe", {**MIXTRAL_CONFIG, "experts_implementation": "grouped_mm"}, compiled=True),
    StepVariant("Mixtral, eager", "moe", {**MIXTRAL_CONFIG, "experts_implementation": "eager"}),
    StepVariant("dense, ours", "gpt"),
    StepVariant("dense, ours, compiled", "gpt", compiled=True),
    StepVariant("Llama", "gpt", {}),
    StepVariant("Llama, compiled", "gpt", {}, compiled=True),
)


def run_benchmark(benchmark: StepBenchmark) -> StepBenchmarkResult:
    """Some steps to warm up, then the steps that count; each waits for its loss, so the clock sees all of it."""
    transformers.logging.set_verbosity_error()
    torch._logging.set_logs(dynamo=logging.ERROR, inductor=logging.ERROR)
    device, spec = torch.device(benchmark.device), registry.load_model(benchmark.variant.model_name, ModelSpec)
    batch = peers.random_batch(benchmark.vocab_size, benchmark.batch_size, benchmark.seq_len, benchmark.device)
    model = peers.build_ours(spec, benchmark.model_config, benchmark.vocab_size)
    if benchmark.variant.peer_config is None:
        model = model.to(device)
        model.layers.blocks_per_checkpoint = 1 if benchmark.variant.activation_checkpointing else None  # type: ignore[union-attr,assignment]
        loss = peers.our_loss(spec, model, batch)
        for block in model.layers if benchmark.variant.compiled else ():  # type: ignore[union-attr]
            block.compile()  # type: ignore[operator]
    else:
        model = peers.build_peer(spec, benchmark.model_config, model, benchmark.vocab_size, **benchmark.variant.peer_config).to(
            device
        )
        loss = peers.peer_loss(model, batch)
        if benchmark.variant.compiled:
            model.compile()
    train_step, losses, seconds = peers.make_train_step(model, loss, True, benchmark.device), [], []
    for _ in range(3 + benchmark.steps):
        begin = time.perf_counter()
        losses.append(train_step())
        seconds.append(time.perf_counter() - begin)
    timed_seconds, tokens = seconds[3:], benchmark.batch_size * benchmark.seq_len
    tokens_per_second = tokens / statistics.median(timed_seconds)
    flops = tokens_per_second * spec.flops_per_token(benchmark.model_config, benchmark.vocab_size, benchmark.seq_len)
    ms = [1e3 * milliseconds for milliseconds in (statistics.median(timed_seconds), min(timed_seconds), max(timed_seconds))]
    mfu = flops / measure_peak_flops(device, "bf16")
    return StepBenchmarkResult(
        benchmark.variant.name,
        benchmark.variant.model_name,
        *ms,
        seconds[0],
        tokens_per_second,
        flops / 1e12,
        mfu,
        memory.max_memory_allocated(device),
        (losses[0], losses[-1]),
    )


def make_benchmarks(options: argparse.Namespace) -> list[StepBenchmark]:
    """Every way on the shape of params.yaml, or on a tiny one."""
    table = config.load_params(ROOT / "params.yaml")
    shape = table.entry("recipes", "docs_moe")["validate"]["count_only_models"]["claimed_200m"]
    spec = registry.load_model("moe", ModelSpec)
    moe_config = replace(
        config.parse_config(spec.config_type, shape["model"], "claimed_200m"), dropout=0.0, load_balancing="global_aux_loss"
    )
    vocab_size = shape["vocabulary"]
    if options.tiny:
        moe_config, vocab_size = (
            replace(moe_config, hidden_size=64, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=options.length),
            256,
        )
    intermediate_size = moe_config.num_experts_per_tok * moe_config.intermediate_size
    shared_fields = {
        name: getattr(moe_config, name)
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "rope_theta",
            "norm_eps",
        )
    }
    dense_config = registry.load_model("gpt", ModelSpec).config_type(
        variant="llama", intermediate_size=intermediate_size, tie_word_embeddings=True, dropout=0.0, **shared_fields
    )
    return [
        StepBenchmark(
            variant,
            moe_config if variant.model_name == "moe" else dense_config,
            vocab_size,
            options.rows,
            options.length,
            options.device,
            options.steps,
        )
        for variant in VARIANTS
        if options.only is None or options.only in variant.name
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small shape, to try the code")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", help="ways whose name holds this")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("a training step on a GPU: NOT RUN, there is none here")
        return
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, transformers {transformers.__version__}; {options.rows} × {options.length} tokens, bf16"
    )
    print(f"  {'':32}{'ms':>9}{'least':>9}{'most':>9}{'first s':>9}{'tokens/s':>11}{'TFLOP/s':>9}{'MFU':>7}{'GiB':>7}")
    results: list[StepBenchmarkResult] = []
    for benchmark in make_benchmarks(options):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            try:
                result = executor.submit(run_benchmark, benchmark).result()
            except RuntimeError as error:  # no memory left, or a kernel that is not there
                print(f"  {benchmark.variant.name:32}NOT RUN: {str(error).splitlines()[0]}", flush=True)
                continue
        results.append(result)
        print(
            f"  {result.name:32}{result.median_ms:9.1f}{result.min_ms:9.1f}{result.max_ms:9.1f}{result.first_seconds:9.1f}{result.tokens_per_second:11,.0f}"
            f"{result.tflops:9.1f}{result.mfu:7.1%}{result.peak_bytes / (1 << 30):7.1f}",
            flush=True,
        )
    for model_name in ("moe", "gpt"):
        first_losses = {result.name: result.losses[0] for result in results if result.model_name == model_name}
        if first_losses and max(first_losses.values()) - min(first_losses.values()) > MAX_LOSS_DIFFERENCE:
            print(f"the first losses differ, so these are different models: {first_losses}", file=sys.stderr)
            sys.exit(1)
    if options.json:
        options.json.write_text(
            json.dumps({"device": name, "lines": [asdict(result) for result in results]}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
