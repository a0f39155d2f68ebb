"""Passes over more and more rows in, how many rows at a time memory holds out."""

from collections.abc import Callable

import torch

from provenlm.training import memory, rng_state
from provenlm.training.dataloader import DataLoader
from provenlm.training.oom_backoff import is_oom_error
from provenlm.training.optim import gradients
from provenlm.training.state import TrainerState

MIN_MICRO_BATCH, MAX_MICRO_BATCH = 4, 64
MEMORY_FRACTION = 0.8  # of what is free: allocators do not fill the gaps between blocks


def find_micro_batch_size(state: TrainerState, dataloader: DataLoader) -> int:
    """How many rows of the full length memory holds at a time, before the first step; the trial leaves nothing behind."""
    saved_rng, objective, config = rng_state.get_rng_state(), state.objectives[0], state.config
    params = [p for group in objective.param_groups.values() for p in group if p.requires_grad]
    optimizer_bytes = 2 * sum(p.nbytes for p in params)  # what AdamW will hold from the first step on; others hold less

    def reset() -> None:
        for parameter in params:
            parameter.grad = None
        objective.post_step(False)
        rng_state.set_rng_state(*saved_rng)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def bytes_needed(num_sequences: int) -> int | None:
        batch = dataloader.batch_at(0, num_sequences)
        repeats = -(-config.seq_len // batch.inputs_BT.shape[1])
        long_batch = batch.map(lambda each_BT: each_BT.repeat(1, repeats)[:, : config.seq_len])
        return measure_peak_bytes(
            lambda: gradients.compute_gradients(
                objective, long_batch, num_sequences, config.precision, state.grad_scaler.scale, None, state.device
            ),
            reset,
            state.device,
        )

    state.model.train()
    return largest_fitting_batch(bytes_needed, memory.memory_free(state.device) - optimizer_bytes, config.global_batch_size)


def largest_fitting_batch(bytes_needed: Callable[[int], int | None], free_bytes: int, batch_size: int) -> int:
    """The largest power of two from 4 to 64, and no more than `batch`, whose passes fit into `SHARE` of the `free` bytes.

    `needed(rows)` computes a pass and gives the bytes that it took, or None if it ran out of memory. Twice the rows take at most
    twice the bytes, so none is tried that may not fit. Where not even 4 do, half as many: fewer are found out while training.
    """
    num_sequences = min(MIN_MICRO_BATCH, batch_size)
    while (bytes_ := bytes_needed(num_sequences)) is not None:
        if 2 * num_sequences > min(MAX_MICRO_BATCH, batch_size) or 2 * bytes_ > MEMORY_FRACTION * free_bytes:
            return num_sequences
        num_sequences *= 2
    return max(1, num_sequences // 2)


def measure_peak_bytes(compute: Callable[[], object], reset: Callable[[], None], device: torch.device) -> int | None:
    """The most bytes that `compute` held beyond what was held before, None if memory ran out; `undo` lets go of them.

    It may say too much where more had been held once before, and never too little but on MPS, which counts no peak: there only what
    runs out shows.
    """
    baseline = memory.memory_allocated(device)
    try:
        compute()
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
        peak_bytes = None
    else:
        peak_bytes = max(0, memory.max_memory_allocated(device) - baseline)
    reset()
    return peak_bytes
