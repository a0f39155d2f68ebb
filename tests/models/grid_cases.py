"""Build tiny grid transformers and batches of grid pairs for their tests."""

from dataclasses import replace

import numpy as np
import torch

from provenlm.domains.grids.tokenize.grid_batches import IGNORE, CellSequence
from provenlm.domains.grids.tokenize.grid_batches import make_batch as batch_of
from provenlm.domains.grids.tokenize.grid_tokenizer import PAD
from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.model import VOCAB_SIZE, build_grid_transformer

TINY = GridTransformerConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_tasks=3, max_cells=64
)


def grid_cells(grid, plane):
    """List (token, row, column, plane) of the cells of a grid."""
    return [(color, row, column, plane) for row, line in enumerate(grid) for column, color in enumerate(line)]


def make_batch(pairs, tasks=None, symmetries=None, width=0):
    """Return a batch of pairs (input, output), each in place where both grids have the same size, padded to at least `width`."""
    sequences = []
    for number, pair in enumerate(pairs):
        grid, output = (np.array(rows, np.uint8) for rows in pair)
        task, symmetry = (values[number] if values else 0 for values in (tasks, symmetries))
        sequences.append(CellSequence.create(task, grid, output, output.shape, in_place=True, symmetry=symmetry))
    batch = batch_of(sequences)
    num_padding = max(0, width - batch.seq_len)
    padding = {"inputs_BT": PAD, "targets_BT": IGNORE, "is_query_BT": False}
    padded = {name: torch.nn.functional.pad(getattr(batch, name), (0, num_padding), value=value) for name, value in padding.items()}
    return replace(batch, **padded, coords_BT3=torch.nn.functional.pad(batch.coords_BT3, (0, 0, 0, num_padding)))


def random_grid(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, (height, width), generator=generator).tolist()


def random_batch(width=0, symmetries=(0, 0, 0)):
    """Return three pairs: one in place, a growing one and a shrinking one."""
    sizes = [((3, 4), (3, 4)), ((2, 2), (4, 3)), ((3, 3), (1, 2))]
    pairs = [(random_grid(*a, seed), random_grid(*b, seed + 10)) for seed, (a, b) in enumerate(sizes)]
    return make_batch(pairs, tasks=[0, 1, 2], symmetries=list(symmetries), width=width)


def make_model(config=TINY, seed=0, spread=0.3):
    """Return a model whose weights are all random, as after training."""
    torch.manual_seed(seed)
    model = build_grid_transformer(config, VOCAB_SIZE)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, spread)
    torch.nn.init.constant_(model.head.copy_bias, 0.7)
    return model.eval()
