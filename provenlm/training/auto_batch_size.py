"""Find the largest micro-batch that fits into memory."""

from collections.abc import Callable

import torch

from provenlm.training import memory, rng_state
from provenlm.training.dataloader import DataLoader
from provenlm.training.oom_backoff import is_oom_error
from provenlm.training.optim import gradients
from provenlm.training.state import TrainerState

MIN_MICRO_BATCH, MAX_MICRO_BATCH = 4, 64
MEMORY_FRACTION = 0.8  # of the free bytes: fragmentation makes the rest unusable


def find_micro_batch_size(state: TrainerState, dataloader: DataLoader) -> int:
    """Measure how many full-length sequences fit into memory in one pass.

    Runs before the first step and restores gradients, model and random state.
    """
    saved_rng, objective, config = rng_state.get_rng_state(), state.objectives[0], state.config
    params = [p for group in objective.param_groups.values() for p in group if p.requires_grad]
    optimizer_bytes = 2 * sum(p.nbytes for p in params)  # AdamW's state after the first step; other optimizers need less

    def reset() -> None:
        for parameter in params:
            parameter.grad = None
        objective.post_step(False)
        rng_state.set_rng_state(*saved_rng)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def bytes_needed(num_sequences: int) -> int | None:
        batch = dataloader.batch_at(0, num_sequences)
        if batch.seq_len < config.seq_len:  # measure the longest batch that can come
            repeats = -(-config.seq_len // batch.seq_len)
            batch = batch.map(lambda tensor_BT: tensor_BT.repeat(1, repeats)[:, : config.seq_len])
        return measure_peak_bytes(
            lambda: gradients.compute_gradients(
                objective, batch, num_sequences, config.precision, state.grad_scaler.scale, None, state.device
            ),
            reset,
            state.device,
        )

    state.model.train()
    return largest_fitting_batch(bytes_needed, memory.memory_free(state.device) - optimizer_bytes, config.global_batch_size)


def largest_fitting_batch(bytes_needed: Callable[[int], int | None], free_bytes: int, batch_size: int) -> int:
    """Return the largest power of two from 4 to 64 that fits into memory.

    At most `batch_size`; a pass must need at most `MEMORY_FRACTION` of `free_bytes`. `bytes_needed(n)` runs a pass over n sequences and
    returns its peak, or None if it ran out of memory. Twice the sequences need at most twice the bytes, so no size is tried that may not
    fit. If not even 4 fit, half of that is returned; the out-of-memory back-off reduces it further during training.
    """
    num_sequences = min(MIN_MICRO_BATCH, batch_size)
    while (bytes_ := bytes_needed(num_sequences)) is not None:
        if 2 * num_sequences > min(MAX_MICRO_BATCH, batch_size) or 2 * bytes_ > MEMORY_FRACTION * free_bytes:
            return num_sequences
        num_sequences *= 2
    return max(1, num_sequences // 2)


def measure_peak_bytes(compute: Callable[[], object], reset: Callable[[], None], device: torch.device) -> int | None:
    """Return the peak bytes that `compute` allocates, None if it runs out of memory.

    `reset` frees them. The result can be too large after an earlier, higher peak; it is too small only on MPS, which has no peak counter.
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
