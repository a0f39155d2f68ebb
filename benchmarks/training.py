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
from comparisons.interleaved_timing import Line, compare, keep, show
from comparisons.subprocess_timer import apart
from torch import Tensor, nn

from provenlm.core import config, registry
from provenlm.data.token_dataset import Split, Tokens
from provenlm.models.common.layers import moe_experts
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import Net
from provenlm.training.build_model import fresh
from provenlm.training.config import Settings
from provenlm.training.dataloader import batches_for
from provenlm.training.device import emulated, keep_memory
from provenlm.training.loop import fit
from provenlm.training.optim import factory

ROOT = Path(__file__).resolve().parents[1]
HIDDEN, INNER, EXPERTS, CHOSEN, TOKENS = 512, 2048, 8, 2, 2048  # the expert layer of the 223M shape of params.yaml
LAYERS, VOCABULARY, ROWS, LENGTH = 2, 4096, 8, 256  # of the whole steps: two of its eight layers, so that three models fit at once
PRECISIONS = {"fp32": "fp32", "bf16": "bf16 autocast", "pure": "bf16 weights too"}


def expert_layer(dtype: torch.dtype, rounds: int) -> list[Line]:
    """Forward and backward of one layer of experts."""
    torch.manual_seed(0)
    states = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    slope = torch.randn(TOKENS, HIDDEN, dtype=dtype)
    gate_up = nn.Parameter((torch.randn(EXPERTS, 2 * INNER, HIDDEN) / math.sqrt(HIDDEN)).to(dtype))
    down = nn.Parameter((torch.randn(EXPERTS, HIDDEN, INNER) / math.sqrt(INNER)).to(dtype))
    weights, chosen = torch.randn(TOKENS, EXPERTS).softmax(-1).topk(CHOSEN, -1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(dtype)
    ways: dict[str, Any] = {
        "ours (split)": moe_experts.by_split,
        "ours, for GPUs (grouped)": moe_experts.by_grouped,
        "plain loop": moe_experts.by_loop,
        "Mixtral, eager": peers.mixtral_experts("eager", gate_up, down, CHOSEN),
        "Mixtral, grouped_mm": peers.mixtral_experts("grouped_mm", gate_up, down, CHOSEN),
    }

    def run(way: Any) -> Tensor:
        states.grad = gate_up.grad = down.grad = None
        said: Tensor = way(states, chosen, weights, gate_up, down)
        said.backward(slope)
        return said

    name = f"expert layer {str(dtype).removeprefix('torch.')}: hidden {HIDDEN}, inner {INNER}, {EXPERTS} experts, top-{CHOSEN}, {TOKENS} tokens"
    return compare(name, {label: partial(run, way) for label, way in ways.items()}, rounds)


def moe_step(precision: str, rounds: int) -> list[Line]:
    """A training step of the mixture, against Mixtral in both of its ways, with the same weights and the same loss."""
    net = registry.load_model("moe", Net)
    shape = config.load(ROOT / "params.yaml").row("recipes", "docs_moe")["validate"]["also_count"]["claimed_200m"]["net"]
    settings = replace(config.parse(net.settings, shape, "claimed_200m"), layers=LAYERS, dropout=0.0, balance="joint")
    ways = {"eager": {"experts_implementation": "eager"}, "grouped_mm": {"experts_implementation": "grouped_mm"}}
    more = {f"Mixtral, {way}": {"output_router_logits": True, **keys} for way, keys in ways.items()}
    return whole_step("mixture", "moe", settings, more, precision, rounds)


def dense_step(precision: str, rounds: int) -> list[Line]:
    """A training step of the dense decoder of equal active width, against Llama."""
    net = registry.load_model("gpt", Net)
    settings = net.settings("llama", HIDDEN, LAYERS, 8, 2, CHOSEN * INNER, 2048, True, 10_000.0, 1e-5, 0.0)
    return whole_step("dense", "gpt", settings, {"Llama": {}}, precision, rounds)


def whole_step(name: str, kind: str, settings: Any, more: dict[str, dict[str, Any]], precision: str, rounds: int) -> list[Line]:
    """Ours and each peer, each in a process of its own; RuntimeError if the first losses say that they are not the same model.

    Ours keeps freed memory, as the train stage lets it. So that one sees what that is worth, each also stands there the other way. The
    products alone say how fast a step could be at best: whatever anyone saves, it is of what is above them.
    """
    keys: dict[str, tuple[dict[str, Any] | None, bool]] = {"ours": (None, True), "ours, memory not kept": (None, False)}
    keys |= {label: (said, False) for label, said in more.items()}
    keys |= {f"{label}, memory kept": (said, True) for label, said in more.items()}
    with ExitStack() as stack:
        steps = {
            label: stack.enter_context(apart(partial(a_step, kind, settings, said, kept, precision, torch.get_num_threads())))
            for label, (said, kept) in keys.items()
        }
        first = {label: once().value for label, once in steps.items()}
        floor = apart(partial(the_products, kind, settings, precision, torch.get_num_threads()))
        steps["the products alone"] = stack.enter_context(floor)
        if max(first.values()) - min(first.values()) > (1e-4 if precision == "fp32" else 2e-2):
            raise RuntimeError(f"the first losses differ, so these are different models: {first}")
        title = f"{name} step {PRECISIONS[precision]}: {LAYERS} layers, vocabulary {VOCABULARY}, {ROWS} × {LENGTH} tokens, clip, fused AdamW"
        return compare(title, steps, rounds)


def a_step(kind: str, settings: Any, said: dict[str, Any] | None, kept: bool, precision: str, threads: int) -> Callable[[], float]:
    """A training step that gives its loss: of our net, or of the peer with what is `said` to its configuration."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    if kept:
        keep_memory()
    net = registry.load_model(kind, Net)
    batch = peers.drawn(VOCABULARY, ROWS, LENGTH)
    model = peers.built(net, settings, VOCABULARY)
    if said is not None:
        model = peers.peer(net, settings, model, VOCABULARY, **said)
    if precision == "pure":
        model = model.bfloat16()
    loss = peers.loss_of_ours(net, model, batch) if said is None else peers.loss_of_peer(model, batch)
    return peers.step(model, loss, precision == "bf16")


def the_products(kind: str, settings: Any, precision: str, threads: int) -> Callable[[], float]:
    torch.set_num_threads(threads)
    model = peers.built(registry.load_model(kind, Net), settings, VOCABULARY)
    return peers.products(model, ROWS * LENGTH, CHOSEN, torch.float32 if precision == "fp32" else torch.bfloat16)


def default_step(rounds: int) -> list[Line]:
    """A step of the default recipe through `fit`, beside its bare model and optimizers on one batch."""
    table = config.load(ROOT / "params.yaml")
    row = dict(table.row("recipes", "docs_moe")["net"])
    net = registry.load_model(row.pop("kind"), Net)
    settings = table.settings("recipes", "docs_moe", "train", Settings)
    shape: Any = config.parse(net.settings, row, "docs_moe.net")
    tokens = random_tokens(table.row("corpora", "python_docs")["tokenize"]["vocabulary"])
    model, alone = (fresh(net, shape, tokens.vocabulary, settings.seed) for _ in range(2))
    batches = batches_for(tokens, settings)
    steps = fit(model, net.objectives(model, IGNORE), batches, [], settings, None, lambda: None)
    next(steps)  # the first also measures the held-out loss
    bare = bare_steps(net, alone, batches.take(0, settings.batch), settings)
    waits: list[float] = []

    def drawn() -> None:
        step = next(steps)
        waits.append(step.data_seconds / step.seconds)

    lines = compare(
        "default step: docs_moe of params.yaml", {"bare model and optimizers": partial(next, bare), "fit": drawn}, rounds
    )
    print(
        f"\nshare of a default step waiting for its batch: {statistics.median(waits):.3%}; outside model and optimizers: see × of fit"
    )
    return lines


def bare_steps(net: Net, model: nn.Module, batch: Batch, settings: Settings) -> Iterator[None]:
    """Forward, backward, clipping and the recipe's optimizers, and nothing else."""
    objective = net.objectives(model, IGNORE)[0]
    own = factory.optimizers_for(objective, settings.optimizer)
    while True:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = objective.loss(batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip or math.inf)
        for optimizer in own:
            optimizer.step()
        yield


def random_tokens(vocabulary: int) -> Tokens:
    """A million tokens in documents of a thousand."""
    draw = np.random.default_rng(1)

    def split(documents: int) -> Split:
        starts = np.arange(documents + 1, dtype=np.int64) * 1000
        ids = draw.integers(4, vocabulary, int(starts[-1]), dtype=np.uint16)
        return Split(ids, starts, [str(i) for i in range(documents)], np.full(documents, 4000))

    return Tokens(split(1000), split(50), vocabulary, {"unk": 0, "bos": 1, "eos": 2})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 9, without the steps whose weights are bf16 too")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="also write the table here")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    transformers.logging.set_verbosity_error()
    rounds = 3 if asked.quick else 9
    precisions = ("fp32", "bf16") if asked.quick else tuple(PRECISIONS)
    dtypes = [torch.float32, torch.bfloat16]
    if emulated(torch.device("cpu"), "bf16"):
        print("bf16: NOT RUN, this processor has no such products")
        precisions, dtypes = ("fp32",), [torch.float32]
    print(
        f"{asked.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print("× is the time of a line over that of the first line of its table: above 1, the first is faster")
    measures = [partial(expert_layer, dtype, rounds) for dtype in dtypes]
    measures += [partial(one, precision, rounds) for one in (moe_step, dense_step) for precision in precisions]
    lines: list[Line] = []
    for measure in [*measures, partial(default_step, 3 * rounds)]:
        found = measure()
        show(found)
        lines += found
    if asked.json:
        facts = {"threads": asked.threads, "torch": torch.__version__, "transformers": transformers.__version__}
        keep(asked.json, lines, facts)


if __name__ == "__main__":
    sys.exit(main())
