"""Time our expert layer, training steps and training loop against peers.

Peers are a plain loop and Hugging Face models.

Times compare only within a run: the implementations of a comparison run in turns, whole steps each in their own process.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from comparisons import hf_models, results, shapes
from comparisons.interleaved_timing import TimingRow, compare_in_turns, print_table
from comparisons.results import ResultRow
from comparisons.subprocess_timer import in_subprocess
from torch import Tensor, nn

from provenlm.core import config, registry
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.layers import moe_experts
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import ModelSpec, resolve_model
from provenlm.training.build_model import init_model
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.device import is_dtype_emulated, retain_freed_memory
from provenlm.training.optim import factory
from provenlm.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
NUM_TOKENS = 2048  # of the expert layer
# whole steps: two of the eight layers of the 223M shape, so that three models fit into memory
NUM_LAYERS, VOCAB_SIZE, BATCH_SIZE, SEQ_LEN = 2, 4096, 8, 256
PRECISIONS = {"fp32": "fp32", "bf16": "bf16 autocast", "pure": "bf16 weights"}
Comparison = tuple[list[TimingRow], str]  # timings and the details of their title


def time_expert_layer(dtype: torch.dtype, rounds: int) -> Comparison:
    """Time forward and backward of one layer of experts of the 223M shape."""
    hidden, ffn = shapes.MOE_223M.hidden_size, shapes.MOE_223M.intermediate_size
    num_experts, top_k = shapes.MOE_223M.num_experts, shapes.MOE_223M.num_experts_per_tok
    torch.manual_seed(0)
    states = torch.randn(NUM_TOKENS, hidden, dtype=dtype, requires_grad=True)
    output_grad = torch.randn(NUM_TOKENS, hidden, dtype=dtype)
    gate_up = nn.Parameter((torch.randn(num_experts, 2 * ffn, hidden) / math.sqrt(hidden)).to(dtype))
    down = nn.Parameter((torch.randn(num_experts, hidden, ffn) / math.sqrt(ffn)).to(dtype))
    weights, selected = torch.randn(NUM_TOKENS, num_experts).softmax(-1).topk(top_k, -1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(dtype)
    implementations: dict[str, Any] = {
        "ours (split)": moe_experts.experts_split,
        "ours, for GPUs (grouped)": moe_experts.experts_grouped_mm,
        "plain loop": moe_experts.experts_reference,
        "Mixtral, eager": hf_models.mixtral_experts("eager", gate_up, down, top_k),
        "Mixtral, grouped_mm": hf_models.mixtral_experts("grouped_mm", gate_up, down, top_k),
    }

    def run(implementation: Any) -> Tensor:
        states.grad = gate_up.grad = down.grad = None
        output: Tensor = implementation(states, selected, weights, gate_up, down)
        output.backward(output_grad)
        return output

    name = f"expert layer {str(dtype).removeprefix('torch.')}"
    timings = compare_in_turns(name, {label: partial(run, function) for label, function in implementations.items()}, rounds)
    return timings, f"hidden {hidden}, intermediate {ffn}, {num_experts} experts, top {top_k}, {NUM_TOKENS} tokens"


def time_moe_step(precision: str, rounds: int) -> Comparison:
    """Time a step of the MoE model against both expert implementations of Mixtral."""
    model_config = replace(shapes.MOE_223M, num_hidden_layers=NUM_LAYERS)
    peer_configs = {
        f"Mixtral, {implementation}": {"output_router_logits": True, "experts_implementation": implementation}
        for implementation in ("eager", "grouped_mm")
    }
    return time_train_step("MoE", "moe", model_config, peer_configs, precision, rounds)


def time_dense_step(precision: str, rounds: int) -> Comparison:
    """Time a step of the dense decoder against Llama.

    It has as many active parameters as the MoE model.
    """
    model_config = replace(shapes.DENSE, num_hidden_layers=NUM_LAYERS)
    return time_train_step("dense", "gpt", model_config, {"Llama": {}}, precision, rounds)


def time_train_step(
    name: str, model_name: str, model_config: Any, peer_configs: Mapping[str, dict[str, Any]], precision: str, rounds: int
) -> Comparison:
    """Time our model and each peer, each in its own process.

    Raises RuntimeError if their first losses differ.

    Ours retains freed memory, as the train stage does; each model is also timed the other way. The matrix products alone are a lower
    bound of the time of a step.
    """
    variants: dict[str, tuple[dict[str, Any] | None, bool]] = {"ours": (None, True), "ours, memory not retained": (None, False)}
    variants |= {label: (peer_config, False) for label, peer_config in peer_configs.items()}
    variants |= {f"{label}, memory retained": (peer_config, True) for label, peer_config in peer_configs.items()}
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        steps = {
            label: stack.enter_context(
                in_subprocess(partial(make_step, model_name, model_config, peer_config, retains_memory, precision, threads))
            )
            for label, (peer_config, retains_memory) in variants.items()
        }
        first_losses = {label: run_step().value for label, run_step in steps.items()}
        if max(first_losses.values()) - min(first_losses.values()) > (1e-4 if precision == "fp32" else 2e-2):
            raise RuntimeError(f"first losses differ, so these are different models: {first_losses}")
        lower_bound = in_subprocess(partial(make_matmul_step, model_name, model_config, precision, threads))
        steps["matrix products only"] = stack.enter_context(lower_bound)
        timings = compare_in_turns(f"{name} step {PRECISIONS[precision]}", steps, rounds)
    return timings, f"{NUM_LAYERS} layers, vocab_size {VOCAB_SIZE}, {BATCH_SIZE} × {SEQ_LEN} tokens, clipping, fused AdamW"


def make_step(
    model_name: str, model_config: Any, peer_config: dict[str, Any] | None, retains_memory: bool, precision: str, threads: int
) -> Callable[[], float]:
    """Return a step of our model or, with `peer_config`, of the peer.

    The step returns its loss.
    """
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    if retains_memory:
        retain_freed_memory()
    spec = registry.load_model(model_name, ModelSpec)
    batch = hf_models.random_batch(VOCAB_SIZE, BATCH_SIZE, SEQ_LEN)
    model = hf_models.build_ours(spec, model_config, VOCAB_SIZE)
    if peer_config is not None:
        model = hf_models.build_peer(spec, model_config, model, VOCAB_SIZE, **peer_config)
    if precision == "pure":
        model = model.bfloat16()
    loss = hf_models.our_loss(spec, model, batch) if peer_config is None else hf_models.peer_loss(model, batch)
    return hf_models.make_train_step(model, loss, precision == "bf16")


def make_matmul_step(model_name: str, model_config: Any, precision: str, threads: int) -> Callable[[], float]:
    """Return the matrix products of a training step of our model."""
    torch.set_num_threads(threads)
    model = hf_models.build_ours(registry.load_model(model_name, ModelSpec), model_config, VOCAB_SIZE)
    top_k = shapes.MOE_223M.num_experts_per_tok
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return hf_models.matmul_lower_bound(model, BATCH_SIZE * SEQ_LEN, top_k, dtype)


def time_default_step(rounds: int) -> Comparison:
    """Time a step of the default recipe in the loop against its bare model.

    The bare model has the same optimizers.
    """
    params = config.load_params(ROOT / "params.yaml")
    resolved = resolve_model(params.entry("recipes", "docs_moe")["model"], "docs_moe")
    spec, model_config = resolved.spec, resolved.model_config
    train_config = params.parse_section("recipes", "docs_moe", "train", TrainConfig)
    dataset = random_dataset(8192)
    model, bare_model = (init_model(spec, model_config, dataset.vocab_size, train_config.seed) for _ in range(2))
    dataloader = build_dataloader(dataset, train_config)
    steps = Trainer.assemble(spec, model, dataloader, train_config).steps()
    next(steps)  # the first step also measures the validation loss
    bare_step = bare_steps(spec, bare_model, dataloader.batch_at(0, train_config.global_batch_size), train_config)
    waits: list[float] = []

    def loop_step() -> None:
        step = next(steps)
        waits.append(step.data_seconds / step.seconds)

    implementations = {"bare model and optimizers": partial(next, bare_step), "training loop": loop_step}
    timings = compare_in_turns("default step", implementations, rounds)
    return timings, f"recipe docs_moe; data loading takes {statistics.median(waits):.3%} of a step"


def bare_steps(spec: ModelSpec, model: nn.Module, batch: Batch, train_config: TrainConfig) -> Iterator[None]:
    """Run only forward, backward, clipping and the recipe's optimizers on a batch."""
    objective = spec.objectives(model, IGNORE)[0]
    step_optimizers = factory.build_optimizers(objective, train_config.optimizer)
    while True:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=train_config.precision == "bf16"):
            loss = objective.loss(batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), train_config.optimizer.max_grad_norm or math.inf)
        for optimizer in step_optimizers:
            optimizer.step()
        yield


def random_dataset(vocab_size: int) -> TokenDataset:
    """Return a million random tokens in documents of a thousand."""
    rng = np.random.default_rng(1)

    def make_split(num_documents: int) -> DatasetSplit:
        starts = np.arange(num_documents + 1, dtype=np.int64) * 1000
        ids = rng.integers(4, vocab_size, int(starts[-1]), dtype=np.uint16)
        return DatasetSplit(ids, starts, [str(n) for n in range(num_documents)], np.full(num_documents, 4000))

    return TokenDataset(make_split(1000), make_split(50), vocab_size, {"unk": 0, "bos": 1, "eos": 2})


def main() -> None:
    """Run all comparisons and write benchmarks/results/training.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "3 rounds instead of 9, without bf16 weights")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="CPU threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    rounds = 3 if options.quick else 9
    precisions, dtypes = ("fp32", "bf16") if options.quick else tuple(PRECISIONS), [torch.float32, torch.bfloat16]
    if is_dtype_emulated(torch.device("cpu"), "bf16"):
        print("bf16: NOT RUN, this processor has no bf16 matrix products")
        precisions, dtypes = ("fp32",), [torch.float32]
    print(f"{options.threads} threads; × is the time relative to the first line of a table: above 1, the first line is faster")
    comparisons = [partial(time_expert_layer, dtype, rounds) for dtype in dtypes]
    comparisons += [partial(time, precision, rounds) for time in (time_moe_step, time_dense_step) for precision in precisions]
    rows: list[ResultRow] = []
    for comparison in [*comparisons, partial(time_default_step, 3 * rounds)]:
        timings, details = comparison()
        print_table(timings, details)
        rows += [row for timing in timings for row in timing.result_rows()]
    results.save_results("training", rows, options)


if __name__ == "__main__":
    main()
