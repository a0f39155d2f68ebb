"""Build the grid transformer, which predicts the colours of output cells.

A sequence is one pair of grids under one symmetry and one permutation of colours. All its cells attend to each other; the colours of the
output are predicted at once, at query cells or, for an output of the same size, in place at the cells of the input.

Shapes: B sequences, T positions, N cells, D hidden size, C = 10 colours.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.block_stack import BlockStack
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.grid_transformer.blocks import GridBlock
from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.positions import NUM_PLANES, CellLayout, lay_out_cells

NUM_COLORS = 10
PADDING, QUERY = 10, 13  # tokens of the domain grids: no cell, an output cell to be predicted; between them are none of cells
NUM_CELL_TOKENS = 11  # of the colours and the query
VOCAB_SIZE = 14
NUM_SYMMETRIES = 8
ZERO_WEIGHTS = ("o_proj.weight", "down_proj.weight", "mixing.weight")  # that write into the residual stream


class ColorHead(nn.Module):
    """Compute the logits of the colours of cells.

    `copy_bias` is added to the logit of the input's colour where the output is predicted in place. The weights are parameters of this
    module and not of a linear layer, so that adapters of all linear layers leave the output layer alone.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(NUM_COLORS, hidden_size))
        self.copy_bias = nn.Parameter(torch.zeros(1))

    def forward(self, states_ND: Tensor, copied_colors_N: Tensor) -> Tensor:
        """Return logits_NC; `copied_colors_N` is the colour that gets the bias, -1 for none."""
        logits_NC = F.linear(states_ND, self.weight)
        is_copied_NC = copied_colors_N[:, None] == torch.arange(NUM_COLORS, device=logits_NC.device)
        return logits_NC + is_copied_NC.to(logits_NC.dtype) * self.copy_bias


class GridTransformer(nn.Module):
    """Compute the logits of the colours of cells.

    Token, plane, task and symmetry are embedded; row, column and plane are rotary positions.
    """

    def __init__(self, config: GridTransformerConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embed_tokens = nn.Embedding(NUM_CELL_TOKENS, c.hidden_size)
        self.embed_planes = nn.Embedding(NUM_PLANES, c.hidden_size)
        self.embed_tasks = nn.Embedding(c.num_task_embeddings, c.hidden_size)
        self.embed_symmetries = nn.Embedding(NUM_SYMMETRIES, c.hidden_size)
        self.layers = BlockStack(GridBlock(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.norm_eps)
        self.head = ColorHead(c.hidden_size)

    def forward(self, batch: Any) -> Tensor:
        """Return logits_BTC of the colour at every position, 0 at padding."""
        logits_NC, layout = self.cell_logits(batch)
        padded = logits_NC.new_zeros(layout.is_cell_BT.numel(), NUM_COLORS).index_copy(0, layout.slots_N, logits_NC)
        return padded.view(*layout.is_cell_BT.shape, NUM_COLORS)

    def cell_logits(self, batch: Any) -> tuple[Tensor, CellLayout]:
        """Return logits_NC of all cells, and where they are.

        `batch` is any batch with `inputs_BT`, `coords_BT3` (column, row, plane), `is_query_BT`, `tasks_B` and `symmetries_B`. A query with
        a colour is predicted in place. Raises ValueError for a sequence, a task or a coordinate that the model does not have.
        """
        self._check(batch)
        c = self.config
        is_cell_BT = batch.inputs_BT != PADDING
        layout = lay_out_cells(is_cell_BT, batch.coords_BT3, c.head_dim, c.rope_theta)
        tokens_N = batch.inputs_BT.flatten()[layout.slots_N].clamp(max=NUM_COLORS)  # the query follows the colours
        planes_N = batch.coords_BT3[:, :, 2].flatten()[layout.slots_N]
        is_query_N = batch.is_query_BT.flatten()[layout.slots_N]
        sequences_N = layout.slots_N // is_cell_BT.shape[1]
        context_BD = self.embed_tasks(batch.tasks_B) + self.embed_symmetries(batch.symmetries_B)
        hidden_ND = self.embed_tokens(tokens_N) + self.embed_planes(planes_N) + context_BD[sequences_N]

        def run_block(layer: int, block: nn.Module, hidden_ND: Tensor) -> tuple[Tensor, None]:
            """Run one block on the cells of this batch."""
            return block(hidden_ND, layout), None

        states_ND = self.norm(self.layers.run(hidden_ND, run_block)[0])
        copied_colors_N = torch.where(is_query_N & (tokens_N < NUM_COLORS), tokens_N, -1)
        logits_NC: Tensor = self.head(states_ND, copied_colors_N)
        return logits_NC, layout

    def _check(self, batch: Any) -> None:
        c = self.config
        if batch.inputs_BT.shape[1] > c.max_cells:
            raise ValueError(f"sequence length must be <= max_cells = {c.max_cells}, got {batch.inputs_BT.shape[1]}")
        is_known_BT = ((batch.inputs_BT >= 0) & (batch.inputs_BT <= PADDING)) | (batch.inputs_BT == QUERY)
        if not is_known_BT.all():
            raise ValueError(
                f"inputs_BT must be colours, padding ({PADDING}) or queries ({QUERY}), got {int(batch.inputs_BT[~is_known_BT][0])}"
            )
        if len(batch.tasks_B) and not 0 <= int(batch.tasks_B.min()) <= int(batch.tasks_B.max()) < c.num_task_embeddings:
            raise ValueError(
                f"tasks_B must be 0 to num_tasks - 1 = {c.num_task_embeddings - 1}, "
                f"got {int(batch.tasks_B.min())} to {int(batch.tasks_B.max())}"
            )


def build_grid_transformer(config: GridTransformerConfig, vocab_size: int) -> GridTransformer:
    """Build the model, initialized from torch's global generator.

    Normal with standard deviation 0.02 for embeddings and colours and 1/√(fan-in) for matrices. Weights that write into the residual
    stream are zero, so that every block is the identity at the first step. Of the vocabulary the model uses the tokens of cells; raises
    ValueError where there are fewer.
    """
    if vocab_size < VOCAB_SIZE:
        raise ValueError(f"vocab_size must be >= {VOCAB_SIZE}: {NUM_COLORS} colours, a query and padding, got {vocab_size}")
    model = GridTransformer(config)
    for name, parameter in model.named_parameters():
        if name.endswith(ZERO_WEIGHTS):
            nn.init.zeros_(parameter)
        elif name.startswith(("embed_", "head.")) and parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.02)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
    return model


def num_params(config: GridTransformerConfig, vocab_size: int) -> dict[str, int]:
    """Count parameters by part in closed form.

    `active` leaves out the embeddings of the other tasks and symmetries.
    """
    c = config
    d, layers = c.hidden_size, c.num_hidden_layers
    parts = {
        "embedding": (NUM_CELL_TOKENS + NUM_PLANES) * d,
        "tasks": c.num_task_embeddings * d,
        "symmetries": NUM_SYMMETRIES * d,
        "mixing": layers * 9 * d,
        "attention": layers * 4 * d * d,
        "feed_forward": layers * 3 * d * c.intermediate_size,
        "norms": (3 * layers + 1) * d,
        "head": NUM_COLORS * d + 1,
    }
    total = sum(parts.values())
    return {**parts, "total": total, "active": total - (c.num_task_embeddings - 1 + NUM_SYMMETRIES - 1) * d}


def flops_per_token(config: GridTransformerConfig, vocab_size: int, seq_len: int) -> int:
    """Count the FLOPs of a forward and backward pass per cell, in closed form.

    6 for each element of a matrix, of the head and of the neighbour weights, plus attention among `seq_len` cells.
    """
    c = config
    d = c.hidden_size
    layer = 6 * (4 * d * d + 3 * d * c.intermediate_size + 9 * d) + 12 * d * seq_len
    return c.num_hidden_layers * layer + 6 * NUM_COLORS * d
