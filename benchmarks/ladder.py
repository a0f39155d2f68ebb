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
from comparisons.interleaved_timing import Line, compare, keep, show

from provenlm.core import config
from provenlm.data.token_dataset import Split, Tokens
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import Chosen, chosen
from provenlm.training.config import Settings
from provenlm.training.dataloader import batches_for
from provenlm.training.loop import fit

ROOT = Path(__file__).resolve().parents[1]
RUNGS = {"ladder_memorise": (37, 4_624, 4), "ladder_copilot": (61, 33_472, 63)}  # vocabulary, parameters, positions a row
PASSES = 20  # a turn: one pass alone is too short for a clock
CLOSE = 1e-6


def rung(name: str, rows: int, rounds: int) -> list[Line]:
    """Forward and backward of both, and a whole step of ours with clipping, optimizer and all that the loop keeps."""
    table = config.load(ROOT / "params.yaml")
    vocabulary, parameters, length = RUNGS[name]
    found = chosen(table.row("recipes", name)["net"], name)
    batch = drawn(vocabulary, rows, length)
    largest = apart(found, vocabulary, batch)
    model = peers.built(found.net, found.settings, vocabulary)
    if (count := sum(p.numel() for p in model.parameters())) != parameters:
        raise RuntimeError(f"{name} has {count} parameters, not {parameters}")
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    by_hand = partial(numpy_gpt.loss_and_gradients, weights, found.settings.heads, found.settings.norm_eps, *arrays(batch))
    objective = found.net.objectives(model, IGNORE)[0]

    def ours() -> None:
        model.zero_grad()
        objective.loss(batch)["loss"].backward()

    steps = whole_steps(found, table.settings("recipes", name, "train", Settings), vocabulary, rows, length, rounds)
    title = f"{PASSES} × {name}: {parameters} parameters, {rows} × {length} tokens; gradients differ by {largest:.1e}"
    ways = {"NumPy, forward and backward": by_hand, "ours, forward and backward": ours, "ours, whole step of fit": steps}
    return compare(title, {label: partial(repeated, way) for label, way in ways.items()}, rounds)


def repeated(way: Any) -> None:
    for _ in range(PASSES):
        way()


def drawn(vocabulary: int, rows: int, length: int) -> Batch:
    ids = torch.randint(1, vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def arrays(batch: Batch) -> tuple[Any, Any]:
    return batch.inputs_BT.numpy(), batch.targets_BT.numpy()


def apart(found: Chosen, vocabulary: int, batch: Batch) -> float:
    """Largest difference of a gradient in float64, over the largest entry of its tensor. RuntimeError if that is not close."""
    model = peers.built(found.net, found.settings, vocabulary).double()
    loss = found.net.objectives(model, IGNORE)[0].loss(batch)["loss"]
    loss.backward()
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    by_hand, made = numpy_gpt.loss_and_gradients(weights, found.settings.heads, found.settings.norm_eps, *arrays(batch))
    ours = {key: parameter.grad.numpy() for key, parameter in model.named_parameters() if parameter.grad is not None}
    if made.keys() != ours.keys():
        raise RuntimeError(f"gradients of different tensors: {sorted(made.keys() ^ ours.keys())}")
    differences = {key: float(np.abs(made[key] - ours[key]).max() / max(np.abs(ours[key]).max(), 1e-12)) for key in ours}
    differences["loss"] = abs(by_hand - loss.item())
    # A bias of the keys moves all scores of a query alike, so its slope is nought and has no size to compare with.
    worst = max((each for each in differences if not each.endswith("k_proj.bias")), key=differences.__getitem__)
    if differences[worst] > CLOSE:
        raise RuntimeError(f"{worst} differs by {differences[worst]}: these are different nets")
    return differences[worst]


def whole_steps(found: Chosen, settings: Settings, vocabulary: int, rows: int, length: int, rounds: int) -> Any:
    """Each call takes one step of the recipe's training, on random documents of the same size."""
    count = 64 * rows
    ids = np.random.default_rng(1).integers(1, vocabulary, count * (length + 1), dtype=np.uint16)
    starts = np.arange(count + 1, dtype=np.int64) * (length + 1)
    split = Split(ids, starts, [str(n) for n in range(count)], np.full(count, length))
    tokens = Tokens(split, split, vocabulary, {"pad": 0})
    enough = (rounds + 1) * PASSES + 1
    settings = replace(settings, batch=rows, micro_batch=rows, steps=max(enough, settings.total_steps), held_out=None, samples=None)
    model = peers.built(found.net, found.settings, vocabulary)
    steps = fit(model, found.net.objectives(model, IGNORE), batches_for(tokens, settings), [], settings, None, lambda: None)
    return partial(next, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 25")
    parser.add_argument("--json", type=Path, help="also write the table here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 5 if asked.quick else 25
    print(f"1 thread, torch {torch.__version__}, NumPy {np.__version__}, load {os.getloadavg()[0]:.1f}")
    print("× is the time of a line over that of the first line of its table: above 1, NumPy is faster")
    lines: list[Line] = []
    for name, batch in (("ladder_memorise", 12), ("ladder_copilot", 16)):
        for rows in (1, batch):  # a string at a time, and the recipe's batch
            found = rung(name, rows, rounds)
            show(found)
            lines += found
    if asked.json:
        keep(asked.json, lines, {"threads": 1, "torch": torch.__version__, "numpy": np.__version__})


if __name__ == "__main__":
    main()
