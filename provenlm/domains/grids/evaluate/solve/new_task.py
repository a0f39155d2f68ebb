"""Give a trained grid model one more task, which it has not been trained on.

Shapes: B sequences, T cells, C colours, E task embeddings, D hidden size.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.errors import CheckpointError
from provenlm.domains.grids.content.puzzle import Puzzle
from provenlm.domains.grids.tokenize.grid_batches import IGNORE, CellSequence, GridBatch, make_batch
from provenlm.training.checkpoints.checkpoint import load_model

ARCH = "grid_transformer"
TASK_EMBEDDINGS = "embed_tasks.weight"
MAX_COMPARED_TASKS = 64  # a model of more tasks starts a new one from their mean alone


def load_with_new_task(folder: Path, puzzle: Puzzle, in_place: bool = True) -> tuple[nn.Module, int]:
    """Load a grid model with an embedding for a new task, and return its number.

    The embedding is a copy of the one, of all tasks and their mean, that predicts the demonstrations best: of a task that the model was
    trained on that is its own one. Raises CheckpointError if the folder holds no grid model.
    """
    loaded = load_model(folder)
    if loaded.metadata.arch != ARCH:
        raise CheckpointError(f"{folder.as_posix()}: must be a model with arch {ARCH}, got {loaded.metadata.arch}")
    weights = dict(loaded.model.state_dict())
    embeddings_ED = weights[TASK_EMBEDDINGS]
    number = len(embeddings_ED)
    weights[TASK_EMBEDDINGS] = torch.cat([embeddings_ED, embeddings_ED.mean(0, keepdim=True)])
    model = loaded.spec.build(replace(loaded.model_config, num_tasks=number + 1), loaded.metadata.vocab_size)
    model.load_state_dict(weights)
    model.eval()
    candidates = [*(range(number) if number <= MAX_COMPARED_TASKS else ()), number]
    batch = demonstration_batch(puzzle, number, in_place)
    best = min(candidates, key=lambda task: (demonstration_loss(model, batch, task), -task))
    with torch.no_grad():
        model.state_dict()[TASK_EMBEDDINGS][number] = weights[TASK_EMBEDDINGS][best]
    return model, number


def demonstration_batch(puzzle: Puzzle, task: int, in_place: bool) -> GridBatch:
    """Return the demonstrations of a puzzle as a batch, as training shows them."""
    return make_batch(
        [
            CellSequence.create(task, pair.input, pair.output, pair.output.shape, in_place and puzzle.has_same_sizes)
            for pair in puzzle.train
            if pair.output is not None
        ]
    )


def demonstration_loss(model: nn.Module, batch: GridBatch, task: int) -> float:
    """Return the mean cross-entropy of the demonstrated outputs, shown as a task."""
    shown: Any = replace(batch, tasks_B=torch.full_like(batch.tasks_B, task))
    with torch.no_grad():
        logits_BTC: Tensor = model(shown)
    return float(nn.functional.cross_entropy(logits_BTC.flatten(0, 1).float(), batch.targets_BT.flatten(), ignore_index=IGNORE))
