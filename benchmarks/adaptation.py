"""Measure what a task costs beyond its training: workers, adapters, digests; and count the memory of Llama-3.2-1B.

workers: a task that does nothing, started by a fork server, spawned, and in a run. adapters: steps of low-rank adapters and of full fine-tuning on equal
batches of a random Llama, in turns, the time of the digests, and the difference of merged outputs. memory: one step of Llama-3.2-1B counted
on the meta device, with and without recomputed activations.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparisons import results
from comparisons.results import ResultRow
from torch import nn

from provenlm.domains.grids.content.puzzle import GridPair, Puzzle
from provenlm.domains.grids.evaluate.adaptation.adapted_model import adapted_model
from provenlm.domains.grids.evaluate.adaptation.causal_lm import answer_loss
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig, FineTuningConfig
from provenlm.domains.grids.evaluate.adaptation.fine_tuning import fine_tune
from provenlm.domains.grids.evaluate.adaptation.memory_estimate import LLAMA_3_2_1B, count_fine_tuning_memory
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits
from provenlm.domains.grids.evaluate.budgets.outcome import TaskOutcome
from provenlm.domains.grids.evaluate.budgets.task_run import RunBudget
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel, run_in_worker, worker_context
from provenlm.domains.grids.evaluate.solve.grid_vocabulary import PLAIN_VOCABULARY
from provenlm.domains.grids.evaluate.solve.lessons import TextLessons, leave_one_out
from provenlm.domains.grids.evaluate.solve.solve_run import solve_puzzles
from provenlm.domains.grids.evaluate.solve.text_solver import TextSolverConfig

PARTS = ("workers", "adapters", "memory")
METHODS = {"adapters": AdapterConfig(rank=16), "full fine-tuning": AdapterConfig(method="full")}
SEQ_LEN, NUM_TARGETS = 4096, 512


def do_nothing(task: Any, channel: TaskChannel) -> TaskOutcome:
    """Return at once, with torch loaded."""
    return TaskOutcome(torch.__version__)


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    """Return the median wall time of a call, after one that is not counted."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_workers(rounds: int) -> list[ResultRow]:
    """Measure the time from the start of a worker to its end."""
    contexts = {"fork server with torch": worker_context(), "spawn": multiprocessing.get_context("spawn")}
    seconds = {
        name: median_seconds(lambda context=context: run_in_worker(do_nothing, None, TaskLimits(), context), rounds)  # type: ignore[misc]
        for name, context in contexts.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        puzzles = {str(number): random_puzzle() for number in range(4 * rounds)}
        start = time.perf_counter()
        solve_puzzles(puzzles, dict.fromkeys(puzzles), do_nothing, RunBudget(), Path(folder), "benchmark")
        seconds["a run with journal and submission"] = (time.perf_counter() - start) / len(puzzles)
    first = next(iter(seconds.values()))
    return [ResultRow(f"workers: {name}, each task", value, "s", value / first) for name, value in seconds.items()]


def build_llama(hidden_size: int) -> nn.Module:
    """Build a random Llama of four layers for the characters of grids."""
    import transformers

    heads = {"num_attention_heads": hidden_size // 32, "num_key_value_heads": hidden_size // 64}
    sizes = {"hidden_size": hidden_size, "intermediate_size": 3 * hidden_size, "num_hidden_layers": 4}
    config = transformers.LlamaConfig(vocab_size=13, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0, **sizes, **heads)
    model: nn.Module = transformers.LlamaForCausalLM(config).eval()
    return model


def random_puzzle() -> Puzzle:
    """Return a puzzle of three random demonstrations of 8 × 8 cells."""
    cells = np.random.default_rng(0).integers(0, 10, (7, 8, 8)).astype(np.uint8)
    demonstrations = tuple(GridPair(cells[2 * number], cells[2 * number + 1]) for number in range(3))
    return Puzzle("random", "benchmark", "training", demonstrations, (GridPair(cells[6], None),))


def measure_adapters(rounds: int, num_steps: int, hidden_size: int) -> list[ResultRow]:
    """Measure both methods on equal lessons, in turns."""
    model = build_llama(hidden_size)
    lessons = TextLessons(leave_one_out(random_puzzle(), 12, seed=0), PLAIN_VOCABULARY, TextSolverConfig().max_tokens)
    config, loss = FineTuningConfig(num_steps=num_steps, batch_size=2), answer_loss(model)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    overheads: dict[str, list[float]] = {name: [] for name in METHODS}
    trainable, difference = {}, 0.0
    for _ in range(rounds):
        for name, adapter in METHODS.items():
            start = time.perf_counter()
            with adapted_model(model, adapter) as adapted:
                begin = time.perf_counter()
                fine_tune(adapted, lessons, loss, config, micro_batch_size=2)
                seconds[name].append((time.perf_counter() - begin) / num_steps)
                trainable[name] = adapted.num_trainable_params
                difference = max(difference, adapted.merge_difference(lambda: model(lessons.batch([0]).inputs_BT).logits))
            overheads[name].append(time.perf_counter() - start - seconds[name][-1] * num_steps)
    first = statistics.median(seconds["adapters"])
    rows = []
    for name in METHODS:
        median = statistics.median(seconds[name])
        rows += [
            ResultRow(f"adapters: {name}, step of 2 lessons", median, "s", median / first),
            ResultRow(f"adapters: {name}, trainable parameters", trainable[name], "parameters"),
            ResultRow(f"adapters: {name}, digests, set up and removal", statistics.median(overheads[name]), "s"),
        ]
    return [*rows, ResultRow("adapters: largest difference of merged outputs", difference, "logit")]


def count_memory() -> list[ResultRow]:
    """Count a step of Llama-3.2-1B on one lesson, in bytes of tensors."""
    rows = []
    for recompute in (False, True):
        counts = count_fine_tuning_memory(LLAMA_3_2_1B, AdapterConfig(), 1, SEQ_LEN, NUM_TARGETS, recompute=recompute)
        name = f"memory: Llama-3.2-1B, rank 64, {SEQ_LEN} tokens{', recomputed activations' if recompute else ''}"
        rows += [
            ResultRow(name, counts.total_bytes / 1e9, "GB"),
            ResultRow(f"{name}, kept for gradients", counts.saved_bytes / 1e9, "GB"),
        ]
    rows.append(ResultRow("memory: Llama-3.2-1B, parameters", counts.num_params, "parameters"))
    rows.append(ResultRow("memory: Llama-3.2-1B, rank 64, trainable parameters", counts.num_trainable_params, "parameters"))
    return rows


def measure(parts: Sequence[str], quick: bool) -> list[ResultRow]:
    """Run the parts of the benchmark."""
    rounds = 1 if quick else 5
    measurements: dict[str, Callable[[], list[ResultRow]]] = {
        "workers": lambda: measure_workers(rounds),
        "adapters": lambda: measure_adapters(rounds, num_steps=2 if quick else 10, hidden_size=64 if quick else 256),
        "memory": count_memory,
    }
    return [row for part in parts for row in measurements[part]()]


def main() -> None:
    """Run all parts and write benchmarks/results/adaptation.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "1 round of 2 steps on a smaller model instead of 5 rounds of 10 steps")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=None, help="parts to run (default: all)")
    options = parser.parse_args()
    rows = measure(options.only or PARTS, options.quick)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:8.2f} ×"
        print(f"{row.name:<75}{row.value:>16,.6g} {row.unit:<12}{ratio}")
    results.save_results("adaptation", rows, options)


if __name__ == "__main__":
    main()
