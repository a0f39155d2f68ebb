"""Nothing in; out, a table: a step of each net of the ladder beside the same net written in NumPy, in the same run.

Before anything is timed, the gradients of the two are compared in float64: RuntimeError if any differs by more than 1e-6 of the largest.
"""

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparisons import hf_models as peers
from comparisons import numpy_gpt
from comparisons.interleaved_timing import TimingRow, compare_in_turns, print_table, save_json

from provenlm.core import config
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import ResolvedModel, resolve_model
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"ladder_memorise": (37, 4_624, 4), "ladder_copilot": (61, 33_472, 63)}  # vocabulary, parameters, positions a row
PASSES_PER_ROUND = 20  # a turn: one pass alone is too short for a clock
MAX_GRADIENT_DIFFERENCE = 1e-6


def time_model(name: str, batch_size: int, rounds: int) -> list[TimingRow]:
    """Forward and backward of both, and a whole step of ours with clipping, optimizer and all that the loop keeps."""
    table = config.load_params(ROOT / "params.yaml")
    vocab_size, num_params, seq_len = MODELS[name]
    resolved = resolve_model(table.entry("recipes", name)["model"], name)
    batch = random_nonzero_batch(vocab_size, batch_size, seq_len)
    max_difference = max_gradient_difference(resolved, vocab_size, batch)
    model = peers.build_ours(resolved.spec, resolved.model_config, vocab_size)
    if (actual_params := sum(p.numel() for p in model.parameters())) != num_params:
        raise RuntimeError(f"{name} has {actual_params} parameters, not {num_params}")
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    numpy_step = partial(
        numpy_gpt.loss_and_gradients, weights, resolved.model_config.heads, resolved.model_config.norm_eps, *batch_arrays(batch)
    )
    objective = resolved.spec.objectives(model, IGNORE)[0]

    def torch_step() -> None:
        model.zero_grad()
        objective.loss(batch)["loss"].backward()

    trainer_step = make_trainer_step(
        resolved, table.parse_section("recipes", name, "train", TrainConfig), vocab_size, batch_size, seq_len, rounds
    )
    title = f"{PASSES_PER_ROUND} × {name}: {num_params} parameters, {batch_size} × {seq_len} tokens; gradients differ by {max_difference:.1e}"
    implementations = {
        "NumPy, forward and backward": numpy_step,
        "ours, forward and backward": torch_step,
        "ours, whole step of fit": trainer_step,
    }
    return compare_in_turns(
        title, {label: partial(repeat_passes, implementation) for label, implementation in implementations.items()}, rounds
    )


def repeat_passes(implementation: Any) -> None:
    for _ in range(PASSES_PER_ROUND):
        implementation()


def random_nonzero_batch(vocab_size: int, batch_size: int, seq_len: int) -> Batch:
    ids = torch.randint(1, vocab_size, (batch_size, seq_len + 1), generator=torch.Generator().manual_seed(1))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def batch_arrays(batch: Batch) -> tuple[Any, Any]:
    return batch.inputs_BT.numpy(), batch.targets_BT.numpy()


def max_gradient_difference(resolved: ResolvedModel, vocab_size: int, batch: Batch) -> float:
    """Largest difference of a gradient in float64, over the largest entry of its tensor. RuntimeError if that is not close."""
    model = peers.build_ours(resolved.spec, resolved.model_config, vocab_size).double()
    loss = resolved.spec.objectives(model, IGNORE)[0].loss(batch)["loss"]
    loss.backward()
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    numpy_loss, numpy_gradients = numpy_gpt.loss_and_gradients(
        weights, resolved.model_config.heads, resolved.model_config.norm_eps, *batch_arrays(batch)
    )
    torch_gradients = {key: parameter.grad.numpy() for key, parameter in model.named_parameters() if parameter.grad is not None}
    if numpy_gradients.keys() != torch_gradients.keys():
        raise RuntimeError(f"gradients of different tensors: {sorted(numpy_gradients.keys() ^ torch_gradients.keys())}")
    differences = {
        key: float(np.abs(numpy_gradients[key] - torch_gradients[key]).max() / max(np.abs(torch_gradients[key]).max(), 1e-12))
        for key in torch_gradients
    }
    differences["loss"] = abs(numpy_loss - loss.item())
    # A bias of the keys moves all scores of a query alike, so its slope is nought and has no size to compare with.
    worst = max((name for name in differences if not name.endswith("k_proj.bias")), key=differences.__getitem__)
    if differences[worst] > MAX_GRADIENT_DIFFERENCE:
        raise RuntimeError(f"{worst} differs by {differences[worst]}: these are different nets")
    return differences[worst]


def make_trainer_step(
    resolved: ResolvedModel, train_config: TrainConfig, vocab_size: int, batch_size: int, seq_len: int, rounds: int
) -> Any:
    """Each call takes one step of the recipe's training, on random documents of the same size."""
    num_documents = 64 * batch_size
    ids = np.random.default_rng(1).integers(1, vocab_size, num_documents * (seq_len + 1), dtype=np.uint16)
    starts = np.arange(num_documents + 1, dtype=np.int64) * (seq_len + 1)
    split = DatasetSplit(ids, starts, [str(n) for n in range(num_documents)], np.full(num_documents, seq_len))
    tokens = TokenDataset(split, split, vocab_size, {"pad": 0})
    min_steps = (rounds + 1) * PASSES_PER_ROUND + 1
    train_config = replace(
        train_config,
        global_batch_size=batch_size,
        micro_batch_size=batch_size,
        steps=max(min_steps, train_config.total_steps),
        held_out=None,
        samples=None,
    )
    model = peers.build_ours(resolved.spec, resolved.model_config, vocab_size)
    steps = train_steps(
        model, resolved.spec.objectives(model, IGNORE), build_dataloader(tokens, train_config), [], train_config, None, lambda: None
    )
    return partial(next, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 25")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 5 if options.quick else 25
    print(f"1 thread, torch {torch.__version__}, NumPy {np.__version__}, load {os.getloadavg()[0]:.1f}")
    print("× is the time of a line over that of the first line of its table: above 1, NumPy is faster")
    timings: list[TimingRow] = []
    for name, recipe_batch_size in (("ladder_memorise", 12), ("ladder_copilot", 16)):
        for batch_size in (1, recipe_batch_size):  # a string at a time, and the recipe's batch
            model_timings = time_model(name, batch_size, rounds)
            print_table(model_timings)
            timings += model_timings
    if options.json:
        save_json(options.json, timings, {"threads": 1, "torch": torch.__version__, "numpy": np.__version__})


if __name__ == "__main__":
    main()
