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
from provenlm.models.common.spec import Net
from provenlm.training import memory
from provenlm.training.mfu import matmul_peak

ROOT = Path(__file__).resolve().parents[1]
CLOSE = 2e-2  # of the first losses in bfloat16: further apart, they are different models


@dataclass(frozen=True)
class Way:
    """A net of ours, or with `peer`, which is told to its configuration, Hugging Face's model of it."""

    name: str
    net: str
    peer: Mapping[str, Any] | None = None
    compiled: bool = False
    recompute: bool = False


@dataclass(frozen=True)
class Task:
    """One way on one batch. Of `settings`, each net has its own."""

    way: Way
    settings: Any
    vocabulary: int
    rows: int
    length: int
    device: str
    steps: int


@dataclass(frozen=True)
class Result:
    """Milliseconds a step: median, least and most; seconds of the first step, which compiles; bytes; first and last loss."""

    name: str
    net: str
    median: float
    least: float
    most: float
    first_seconds: float
    tokens_per_second: float
    tflops: float
    mfu: float
    peak: int
    losses: tuple[float, float]


MIXTRAL = {"output_router_logits": True}
WAYS = (
    Way("mixture, ours", "moe"),
    Way("mixture, ours, compiled", "moe", compiled=True),
    Way("mixture, ours, recomputed", "moe", recompute=True),
    Way("Mixtral, grouped_mm", "moe", {**MIXTRAL, "experts_implementation": "grouped_mm"}),
    Way("Mixtral, grouped_mm, compiled", "moe", {**MIXTRAL, "experts_implementation": "grouped_mm"}, compiled=True),
    Way("Mixtral, eager", "moe", {**MIXTRAL, "experts_implementation": "eager"}),
    Way("dense, ours", "gpt"),
    Way("dense, ours, compiled", "gpt", compiled=True),
    Way("Llama", "gpt", {}),
    Way("Llama, compiled", "gpt", {}, compiled=True),
)


def measured(task: Task) -> Result:
    """Some steps to warm up, then the steps that count; each waits for its loss, so the clock sees all of it."""
    transformers.logging.set_verbosity_error()
    torch._logging.set_logs(dynamo=logging.ERROR, inductor=logging.ERROR)
    device, net = torch.device(task.device), registry.load_model(task.way.net, Net)
    batch = peers.drawn(task.vocabulary, task.rows, task.length, task.device)
    model = peers.built(net, task.settings, task.vocabulary)
    if task.way.peer is None:
        model = model.to(device)
        model.recompute = 1 if task.way.recompute else None  # type: ignore[assignment]
        loss = peers.loss_of_ours(net, model, batch)
        for block in model.layers if task.way.compiled else ():  # type: ignore[union-attr]
            block.compile()  # type: ignore[operator]
    else:
        model = peers.peer(net, task.settings, model, task.vocabulary, **task.way.peer).to(device)
        loss = peers.loss_of_peer(model, batch)
        if task.way.compiled:
            model.compile()
    once, losses, seconds = peers.step(model, loss, True, task.device), [], []
    for _ in range(3 + task.steps):
        begin = time.perf_counter()
        losses.append(once())
        seconds.append(time.perf_counter() - begin)
    timed, tokens = seconds[3:], task.rows * task.length
    rate = tokens / statistics.median(timed)
    flops = rate * net.flops(task.settings, task.vocabulary, task.length)
    ms = [1e3 * each for each in (statistics.median(timed), min(timed), max(timed))]
    share = flops / matmul_peak(device, "bf16")
    return Result(
        task.way.name, task.way.net, *ms, seconds[0], rate, flops / 1e12, share, memory.peak(device), (losses[0], losses[-1])
    )


def tasks(asked: argparse.Namespace) -> list[Task]:
    """Every way on the shape of params.yaml, or on a tiny one."""
    table = config.load(ROOT / "params.yaml")
    shape = table.row("recipes", "docs_moe")["validate"]["also_count"]["claimed_200m"]
    net = registry.load_model("moe", Net)
    moe = replace(config.parse(net.settings, shape["net"], "claimed_200m"), dropout=0.0, balance="joint")
    vocabulary = shape["vocabulary"]
    if asked.tiny:
        moe, vocabulary = replace(moe, hidden=64, layers=2, expert_hidden=64, context=asked.length), 256
    inner = moe.experts_per_token * moe.expert_hidden
    same = {name: getattr(moe, name) for name in ("hidden", "layers", "heads", "kv_heads", "context", "rope_theta", "norm_eps")}
    dense = registry.load_model("gpt", Net).settings(style="llama", inner=inner, tied=True, dropout=0.0, **same)
    return [
        Task(way, moe if way.net == "moe" else dense, vocabulary, asked.rows, asked.length, asked.device, asked.steps)
        for way in WAYS
        if asked.only is None or asked.only in way.name
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
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("a training step on a GPU: NOT RUN, there is none here")
        return
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}; {asked.rows} × {asked.length} tokens, bf16")
    print(f"  {'':32}{'ms':>9}{'least':>9}{'most':>9}{'first s':>9}{'tokens/s':>11}{'TFLOP/s':>9}{'MFU':>7}{'GiB':>7}")
    found: list[Result] = []
    for task in tasks(asked):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            try:
                one = apart.submit(measured, task).result()
            except RuntimeError as error:  # no memory left, or a kernel that is not there
                print(f"  {task.way.name:32}NOT RUN: {str(error).splitlines()[0]}", flush=True)
                continue
        found.append(one)
        print(
            f"  {one.name:32}{one.median:9.1f}{one.least:9.1f}{one.most:9.1f}{one.first_seconds:9.1f}{one.tokens_per_second:11,.0f}"
            f"{one.tflops:9.1f}{one.mfu:7.1%}{one.peak / (1 << 30):7.1f}",
            flush=True,
        )
    for kind in ("moe", "gpt"):
        first = {one.name: one.losses[0] for one in found if one.net == kind}
        if first and max(first.values()) - min(first.values()) > CLOSE:
            print(f"the first losses differ, so these are different models: {first}", file=sys.stderr)
            sys.exit(1)
    if asked.json:
        asked.json.write_text(
            json.dumps({"device": name, "lines": [asdict(one) for one in found]}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
