"""Build tiny grid transformers and batches of grid pairs for their tests."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.model import PADDING, QUERY, VOCAB_SIZE, build_grid_transformer

IGNORE = -100
TINY = GridTransformerConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_tasks=3, max_cells=64
)


@dataclass(frozen=True)
class PairBatch:
    """Hold pairs of grids, with the fields of the batch of the domain."""

    inputs_BT: Tensor
    targets_BT: Tensor
    rows_BT: Tensor
    columns_BT: Tensor
    planes_BT: Tensor
    in_place_B: Tensor
    tasks_B: Tensor
    symmetries_B: Tensor

    @property
    def num_sequences(self):
        return len(self.inputs_BT)

    @property
    def seq_len(self):
        return self.inputs_BT.shape[1]

    @property
    def num_targets(self):
        return int((self.targets_BT != IGNORE).sum())

    def map(self, fn):
        return PairBatch(*(fn(getattr(self, field.name)) for field in fields(self)))

    def select(self, sequences):
        return self.map(lambda tensor: tensor[sequences])


def grid_cells(grid, plane):
    """List (token, row, column, plane) of the cells of a grid."""
    return [(color, row, column, plane) for row, line in enumerate(grid) for column, color in enumerate(line)]


def make_batch(pairs, tasks=None, symmetries=None, width=0, in_place=None):
    """Return a batch of pairs (input, output), each in place where both grids have the same size, padded to at least `width`."""
    rows, in_place_B = [], []
    for number, (grid, output) in enumerate(pairs):
        same = (len(grid), len(grid[0])) == (len(output), len(output[0])) if in_place is None else in_place[number]
        in_place_B.append(same)
        cells = grid_cells(grid, 0)
        answers = [color for line in output for color in line]
        if same:
            rows.append([(*cell, answer) for cell, answer in zip(cells, answers, strict=True)])
        else:
            queries = [(QUERY, row, column, 1) for _, row, column, _ in grid_cells(output, 1)]
            rows.append([(*cell, IGNORE) for cell in cells] + [(*q, a) for q, a in zip(queries, answers, strict=True)])
    width = max(width, *map(len, rows))
    padding = (PADDING, 0, 0, 0, IGNORE)
    table_BTX = torch.tensor([row + [padding] * (width - len(row)) for row in rows])
    inputs_BT, rows_BT, columns_BT, planes_BT, targets_BT = table_BTX.unbind(-1)
    count = len(pairs)
    return PairBatch(
        inputs_BT,
        targets_BT,
        rows_BT,
        columns_BT,
        planes_BT,
        torch.tensor(in_place_B),
        torch.tensor(tasks or [0] * count),
        torch.tensor(symmetries or [0] * count),
    )


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


def without_targets(batch):
    return replace(batch, targets_BT=torch.full_like(batch.targets_BT, IGNORE))
