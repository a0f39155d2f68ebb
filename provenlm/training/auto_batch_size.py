"""Passes over more and more rows in, how many rows at a time memory holds out."""

from collections.abc import Callable

import torch

from provenlm.training import memory, rng_state
from provenlm.training.dataloader import Batches
from provenlm.training.oom_backoff import out_of_memory
from provenlm.training.optim import gradients
from provenlm.training.state import State

LEAST, MOST = 4, 64
SHARE = 0.8  # of what is free: allocators do not fill the gaps between blocks


def find(run: State, batches: Batches) -> int:
    """How many rows of the full length memory holds at a time, before the first step; the trial leaves nothing behind."""
    random, objective, settings = rng_state.take(), run.objectives[0], run.settings
    trained = [p for group in objective.parameters.values() for p in group if p.requires_grad]
    remembered = 2 * sum(p.nbytes for p in trained)  # what AdamW will hold from the first step on; others hold less

    def undo() -> None:
        for parameter in trained:
            parameter.grad = None
        objective.after(False)
        rng_state.give_back(*random)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def needed(rows: int) -> int | None:
        batch = batches.take(0, rows)
        times = -(-settings.length // batch.inputs_BT.shape[1])
        long = batch.each(lambda each_BT: each_BT.repeat(1, times)[:, : settings.length])
        return measured(
            lambda: gradients.gather(objective, long, rows, settings.precision, run.scaler.scale, None, run.device),
            undo,
            run.device,
        )

    run.model.train()
    return rows_that_fit(needed, memory.free(run.device) - remembered, settings.batch)


def rows_that_fit(needed: Callable[[int], int | None], free: int, batch: int) -> int:
    """The largest power of two from 4 to 64, and no more than `batch`, whose passes fit into `SHARE` of the `free` bytes.

    `needed(rows)` computes a pass and gives the bytes that it took, or None if it ran out of memory. Twice the rows take at most
    twice the bytes, so none is tried that may not fit. Where not even 4 do, half as many: fewer are found out while training.
    """
    rows = min(LEAST, batch)
    while (bytes_ := needed(rows)) is not None:
        if 2 * rows > min(MOST, batch) or 2 * bytes_ > SHARE * free:
            return rows
        rows *= 2
    return max(1, rows // 2)


def measured(compute: Callable[[], object], undo: Callable[[], None], device: torch.device) -> int | None:
    """The most bytes that `compute` held beyond what was held before, None if memory ran out; `undo` lets go of them.

    It may say too much where more had been held once before, and never too little but on MPS, which counts no peak: there only what
    runs out shows.
    """
    before = memory.held(device)
    try:
        compute()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        most = None
    else:
        most = max(0, memory.peak(device) - before)
    undo()
    return most
