"""Time a step of each model of the ladder against the same model written in NumPy.

Before anything is timed, the gradients of both are compared in float64: a difference above 1e-6 of the largest entry raises RuntimeError.
"""

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy starts its threads

import numpy as np
import torch
from comparisons import hf_models, numpy_gpt, results
from comparisons.interleaved_timing import TimingRow, compare_in_turns, print_table
from comparisons.results import ResultRow

from provenlm.core import config
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.common.spec import ResolvedModel, resolve_model
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
MODELS = {  # vocab_size, number of parameters, seq_len, batch size of the recipe
    "ladder_memorise": (37, 4_624, 4, 12),
    "ladder_copilot": (61, 33_472, 63, 16),
}
PASSES_PER_ROUND = 20  # one pass alone is too short to time
MAX_GRADIENT_DIFFERENCE = 1e-6


def time_model(name: str, batch_size: int, rounds: int) -> tuple[list[TimingRow], float]:
    """Time forward and backward of both models and a complete training step.

    Also return the largest gradient difference.
    """
    params = config.load_params(ROOT / "params.yaml")
    vocab_size, num_params, seq_len, _ = MODELS[name]
    resolved = resolve_model(params.entry("recipes", name)["model"], name)
    batch = random_nonzero_batch(vocab_size, batch_size, seq_len)
    max_difference = max_gradient_difference(resolved, vocab_size, batch)
    model = hf_models.build_ours(resolved.spec, resolved.model_config, vocab_size)
    if (actual_params := sum(parameter.numel() for parameter in model.parameters())) != num_params:
        raise RuntimeError(f"{name}: must have {num_params} parameters, got {actual_params}")
    numpy_step = partial(numpy_loss_and_gradients, model, resolved, batch)
    objective = resolved.spec.objectives(model, IGNORE)[0]

    def torch_step() -> None:
        model.zero_grad()
        objective.loss(batch)["loss"].backward()

    train_config = params.parse_section("recipes", name, "train", TrainConfig)
    trainer_step = make_trainer_step(resolved, train_config, vocab_size, batch_size, seq_len, rounds)
    implementations = {
        "NumPy, forward and backward": numpy_step,
        "ours, forward and backward": torch_step,
        "ours, whole training step": trainer_step,
    }
    repeated = {label: partial(repeat_passes, function) for label, function in implementations.items()}
    comparison = f"{PASSES_PER_ROUND} × {name}, batch {batch_size}"
    return compare_in_turns(comparison, repeated, rounds), max_difference


def repeat_passes(function: Any) -> None:
    """Call a step often enough to time it."""
    for _ in range(PASSES_PER_ROUND):
        function()


def random_nonzero_batch(vocab_size: int, batch_size: int, seq_len: int) -> TokenBatch:
    """Return a batch of random ids without the padding id 0, the same in every call."""
    ids = torch.randint(1, vocab_size, (batch_size, seq_len + 1), generator=torch.Generator().manual_seed(1))
    return TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def numpy_loss_and_gradients(model: torch.nn.Module, resolved: ResolvedModel, batch: TokenBatch) -> tuple[float, dict[str, Any]]:
    """Compute loss and gradients in NumPy with the weights of the model."""
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    model_config = resolved.model_config
    return numpy_gpt.loss_and_gradients(
        weights, model_config.num_attention_heads, model_config.norm_eps, batch.inputs_BT.numpy(), batch.targets_BT.numpy()
    )


def max_gradient_difference(resolved: ResolvedModel, vocab_size: int, batch: TokenBatch) -> float:
    """Return the largest relative difference of a gradient in float64.

    It is relative to the largest entry of its tensor.

    Raises RuntimeError if it is above MAX_GRADIENT_DIFFERENCE.
    """
    model = hf_models.build_ours(resolved.spec, resolved.model_config, vocab_size).double()
    loss = resolved.spec.objectives(model, IGNORE)[0].loss(batch)["loss"]
    loss.backward()
    numpy_loss, numpy_gradients = numpy_loss_and_gradients(model, resolved, batch)
    torch_gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters() if parameter.grad is not None}
    if numpy_gradients.keys() != torch_gradients.keys():
        raise RuntimeError(f"gradients of different tensors: {sorted(numpy_gradients.keys() ^ torch_gradients.keys())}")
    differences = {
        name: float(np.abs(numpy_gradients[name] - gradient).max() / max(np.abs(gradient).max(), 1e-12))
        for name, gradient in torch_gradients.items()
    }
    differences["loss"] = abs(numpy_loss - loss.item())
    # A key bias changes all scores of a query equally, so its gradient is 0 and gives no scale.
    worst = max((name for name in differences if not name.endswith("k_proj.bias")), key=differences.__getitem__)
    if differences[worst] > MAX_GRADIENT_DIFFERENCE:
        raise RuntimeError(f"{worst}: gradients differ by {differences[worst]}, so these are different models")
    return differences[worst]


def make_trainer_step(
    resolved: ResolvedModel, train_config: TrainConfig, vocab_size: int, batch_size: int, seq_len: int, rounds: int
) -> Any:
    """Return a function that takes a training step of the recipe.

    It uses random documents of the same length.
    """
    num_documents = 64 * batch_size
    ids = np.random.default_rng(1).integers(1, vocab_size, num_documents * (seq_len + 1), dtype=np.uint16)
    starts = np.arange(num_documents + 1, dtype=np.int64) * (seq_len + 1)
    split = DatasetSplit(ids, starts, [str(n) for n in range(num_documents)], np.full(num_documents, seq_len))
    dataset = TokenDataset(split, split, vocab_size, {"pad": 0})
    train_config = replace(
        train_config,
        global_batch_size=batch_size,
        micro_batch_size=batch_size,
        max_steps=max((rounds + 1) * PASSES_PER_ROUND + 1, train_config.total_steps),
        eval=None,
        sample=None,
    )
    model = hf_models.build_ours(resolved.spec, resolved.model_config, vocab_size)
    trainer = Trainer.assemble(resolved.spec, model, build_dataloader(dataset, train_config), train_config)
    return partial(next, trainer.steps())


def main() -> None:
    """Time all models, print the tables and write benchmarks/results/ladder.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "5 rounds instead of 25")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("1 thread; × is the time relative to the first line of a table: above 1, NumPy is faster")
    rows: list[ResultRow] = []
    for name, (*_, recipe_batch_size) in MODELS.items():
        for batch_size in (1, recipe_batch_size):
            timings, max_difference = time_model(name, batch_size, 5 if options.quick else 25)
            print_table(timings, f"gradients differ by {max_difference:.1e}")
            rows += [row for timing in timings for row in timing.result_rows()]
            rows.append(ResultRow(f"{timings[0].comparison}: largest relative gradient difference", max_difference, ""))
    results.save_results("ladder", rows, options)


if __name__ == "__main__":
    main()
