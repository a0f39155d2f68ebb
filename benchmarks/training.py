"""Nothing in; out, a table: our expert layer, training steps and loop beside the plain loop and Hugging Face's, in the same run.

Numbers hold within a run only: everything in a comparison is measured in turns, whole steps each in a process of its own. `--quick` takes
two minutes on two quiet cores.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from comparisons import hf_models as peers
from comparisons.interleaved_timing import TimingRow, compare_in_turns, print_table, save_json
from comparisons.subprocess_timer import in_subprocess
from torch import Tensor, nn

from provenlm.core import config, registry
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.text.tokenize.spec import TextTokenizeConfig
from provenlm.models.common.layers import moe_experts
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.common.spec import ModelSpec
from provenlm.training.build_model import init_model
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.device import is_dtype_emulated, retain_freed_memory
from provenlm.training.loop import train_steps
from provenlm.training.optim import factory

ROOT = Path(__file__).resolve().parents[1]
HIDDEN, INTERMEDIATE, EXPERTS, TOP_K, TOKENS = 512, 2048, 8, 2, 2048  # the expert layer of the 223M shape of params.yaml
LAYERS, VOCAB_SIZE, BATCH_SIZE, SEQ_LEN = (
    2,
    4096,
    8,
    256,
)  # of the whole steps: two of its eight layers, so that three models fit at once
PRECISIONS = {"fp32": "fp32", "bf16": "bf16 autocast", "pure": "bf16 weights too"}


def time_expert_layer(dtype: torch.dtype, rounds: int) -> list[TimingRow]:
    """Forward and backward of one layer of experts."""
    torch.manual_seed(0)
    states = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    output_grad = torch.randn(TOKENS, HIDDEN, dtype=dtype)
    gate_up = nn.Parameter((torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN) / math.sqrt(HIDDEN)).to(dtype))
    down = nn.Parameter((torch.randn(EXPERTS, HIDDEN, INTERMEDIATE) / math.sqrt(INTERMEDIATE)).to(dtype))
    weights, selected = torch.randn(TOKENS, EXPERTS).softmax(-1).topk(TOP_K, -1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(dtype)
    implementations: dict[str, Any] = {
        "ours (split)": moe_experts.experts_split,
        "ours, for GPUs (grouped)": moe_experts.experts_grouped_mm,
        "plain loop": moe_experts.experts_reference,
        "Mixtral, eager": peers.mixtral_experts("eager", gate_up, down, TOP_K),
        "Mixtral, grouped_mm": peers.mixtral_experts("grouped_mm", gate_up, down, TOP_K),
    }

    def run(implementation: Any) -> Tensor:
        states.grad = gate_up.grad = down.grad = None
        output: Tensor = implementation(states, selected, weights, gate_up, down)
        output.backward(output_grad)
        return output

    name = f"expert layer {str(dtype).removeprefix('torch.')}: hidden {HIDDEN}, inner {INTERMEDIATE}, {EXPERTS} experts, top-{TOP_K}, {TOKENS} tokens"
    return compare_in_turns(
        name, {label: partial(run, implementation) for label, implementation in implementations.items()}, rounds
    )


def time_moe_step(precision: str, rounds: int) -> list[TimingRow]:
    """A training step of the mixture, against Mixtral in both of its ways, with the same weights and the same loss."""
    spec = registry.load_model("moe", ModelSpec)
    shape = config.load_params(ROOT / "params.yaml").entry("recipes", "docs_moe")["validate"]["count_only_models"]["claimed_200m"]["model"]
    model_config = replace(
        config.parse_config(spec.config_type, shape, "claimed_200m"), num_hidden_layers=LAYERS, dropout=0.0, load_balancing="global_aux_loss"
    )
    expert_options = {"eager": {"experts_implementation": "eager"}, "grouped_mm": {"experts_implementation": "grouped_mm"}}
    peer_configs = {f"Mixtral, {label}": {"output_router_logits": True, **options} for label, options in expert_options.items()}
    return time_train_step("mixture", "moe", model_config, peer_configs, precision, rounds)


def time_dense_step(precision: str, rounds: int) -> list[TimingRow]:
    """A training step of the dense decoder of equal active width, against Llama."""
    spec = registry.load_model("gpt", ModelSpec)
    model_config = spec.config_type("llama", HIDDEN, LAYERS, 8, 2, TOP_K * INTERMEDIATE, 2048, True, 10_000.0, 1e-5, 0.0)
    return time_train_step("dense", "gpt", model_config, {"Llama": {}}, precision, rounds)


def time_train_step(
    name: str, model_name: str, model_config: Any, peer_configs: dict[str, dict[str, Any]], precision: str, rounds: int
) -> list[TimingRow]:
    """Ours and each peer, each in a process of its own; RuntimeError if the first losses say that they are not the same model.

    Ours keeps freed memory, as the train stage lets it. So that one sees what that is worth, each also stands there the other way. The
    products alone say how fast a step could be at best: whatever anyone saves, it is of what is above them.
    """
    variants: dict[str, tuple[dict[str, Any] | None, bool]] = {"ours": (None, True), "ours, memory not kept": (None, False)}
    variants |= {label: (peer_config, False) for label, peer_config in peer_configs.items()}
    variants |= {f"{label}, memory kept": (peer_config, True) for label, peer_config in peer_configs.items()}
    with ExitStack() as stack:
        steps = {
            label: stack.enter_context(
                in_subprocess(
                    partial(make_step, model_name, model_config, peer_config, keeps_memory, precision, torch.get_num_threads())
                )
            )
            for label, (peer_config, keeps_memory) in variants.items()
        }
        first_losses = {label: run_step().value for label, run_step in steps.items()}
        lower_bound = in_subprocess(partial(make_matmul_step, model_name, model_config, precision, torch.get_num_threads()))
        steps["the products alone"] = stack.enter_context(lower_bound)
        if max(first_losses.values()) - min(first_losses.values()) > (1e-4 if precision == "fp32" else 2e-2):
            raise RuntimeError(f"the first losses differ, so these are different models: {first_losses}")
        title = f"{name} step {PRECISIONS[precision]}: {LAYERS} layers, vocabulary {VOCAB_SIZE}, {BATCH_SIZE} × {SEQ_LEN} tokens, clip, fused AdamW"
        return compare_in_turns(title, steps, rounds)


def make_step(
    model_name: str, model_config: Any, peer_config: dict[str, Any] | None, keeps_memory: bool, precision: str, threads: int
) -> Callable[[], float]:
    """A training step that gives its loss: of our net, or of the peer with what is `said` to its configuration."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    if keeps_memory:
        retain_freed_memory()
    spec = registry.load_model(model_name, ModelSpec)
    batch = peers.random_batch(VOCAB_SIZE, BATCH_SIZE, SEQ_LEN)
    model = peers.build_ours(spec, model_config, VOCAB_SIZE)
    if peer_config is not None:
        model = peers.build_peer(spec, model_config, model, VOCAB_SIZE, **peer_config)
    if precision == "pure":
        model = model.bfloat16()
    loss = peers.our_loss(spec, model, batch) if peer_config is None else peers.peer_loss(model, batch)
    return peers.make_train_step(model, loss, precision == "bf16")


def make_matmul_step(model_name: str, model_config: Any, precision: str, threads: int) -> Callable[[], float]:
    torch.set_num_threads(threads)
    model = peers.build_ours(registry.load_model(model_name, ModelSpec), model_config, VOCAB_SIZE)
    return peers.matmul_lower_bound(model, BATCH_SIZE * SEQ_LEN, TOP_K, torch.float32 if precision == "fp32" else torch.bfloat16)


def time_default_step(rounds: int) -> list[TimingRow]:
    """A step of the default recipe through `fit`, beside its bare model and optimizers on one batch."""
    table = config.load_params(ROOT / "params.yaml")
    model_section = dict(table.entry("recipes", "docs_moe")["model"])
    spec = registry.load_model(model_section.pop("arch"), ModelSpec)
    train_config = table.parse_section("recipes", "docs_moe", "train", TrainConfig)
    model_config: Any = config.parse_config(spec.config_type, model_section, "docs_moe.net")
    tokens = random_tokens(table.parse_section("corpora", "python_docs", "tokenize", TextTokenizeConfig).vocab_size)
    model, bare_model = (init_model(spec, model_config, tokens.vocab_size, train_config.seed) for _ in range(2))
    batches = build_dataloader(tokens, train_config)
    steps = train_steps(model, spec.objectives(model, IGNORE), batches, [], train_config, None, lambda: None)
    next(steps)  # the first also measures the held-out loss
    bare_step = bare_steps(spec, bare_model, batches.batch_at(0, train_config.global_batch_size), train_config)
    waits: list[float] = []

    def trainer_step() -> None:
        step = next(steps)
        waits.append(step.data_seconds / step.seconds)

    timings = compare_in_turns(
        "default step: docs_moe of params.yaml",
        {"bare model and optimizers": partial(next, bare_step), "fit": trainer_step},
        rounds,
    )
    print(
        f"\nshare of a default step waiting for its batch: {statistics.median(waits):.3%}; outside model and optimizers: see × of fit"
    )
    return timings


def bare_steps(spec: ModelSpec, model: nn.Module, batch: TokenBatch, train_config: TrainConfig) -> Iterator[None]:
    """Forward, backward, clipping and the recipe's optimizers, and nothing else."""
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


def random_tokens(vocab_size: int) -> TokenDataset:
    """A million tokens in documents of a thousand."""
    draw = np.random.default_rng(1)

    def split(documents: int) -> DatasetSplit:
        starts = np.arange(documents + 1, dtype=np.int64) * 1000
        ids = draw.integers(4, vocab_size, int(starts[-1]), dtype=np.uint16)
        return DatasetSplit(ids, starts, [str(i) for i in range(documents)], np.full(documents, 4000))

    return TokenDataset(split(1000), split(50), vocab_size, {"unk": 0, "bos": 1, "eos": 2})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 9, without the steps whose weights are bf16 too")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    rounds = 3 if options.quick else 9
    precisions = ("fp32", "bf16") if options.quick else tuple(PRECISIONS)
    dtypes = [torch.float32, torch.bfloat16]
    if is_dtype_emulated(torch.device("cpu"), "bf16"):
        print("bf16: NOT RUN, this processor has no such products")
        precisions, dtypes = ("fp32",), [torch.float32]
    print(
        f"{options.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print("× is the time of a line over that of the first line of its table: above 1, the first is faster")
    measures = [partial(time_expert_layer, dtype, rounds) for dtype in dtypes]
    measures += [
        partial(time_step, precision, rounds) for time_step in (time_moe_step, time_dense_step) for precision in precisions
    ]
    timings: list[TimingRow] = []
    for measure in [*measures, partial(time_default_step, 3 * rounds)]:
        measured_timings = measure()
        print_table(measured_timings)
        timings += measured_timings
    if options.json:
        metadata = {"threads": options.threads, "torch": torch.__version__, "transformers": transformers.__version__}
        save_json(options.json, timings, metadata)


if __name__ == "__main__":
    sys.exit(main())
