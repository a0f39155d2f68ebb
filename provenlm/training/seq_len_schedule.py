"""Warm up the sequence length during training.

Short sequences are cheaper and train more stably (Li et al. 2022, arXiv 2108.06084). The tokens of a step and their order do not depend
on the length.
"""

import math

from provenlm.models.common.objective import BatchT
from provenlm.training.config_sections import SeqLenScheduleConfig


def seq_len_at_step(schedule: SeqLenScheduleConfig | None, step: int, max_seq_len: int) -> int:
    """Return the sequence length at `step` (0, 1, …).

    It is the largest divisor of `max_seq_len` that is not above the curve from `schedule.start` to `max_seq_len`.
    """
    if schedule is None or step >= schedule.steps:
        return max_seq_len
    progress = step / schedule.steps
    if schedule.shape == "exponential":
        target = schedule.start * (max_seq_len / schedule.start) ** progress
    else:
        ramp = (1 - math.cos(math.pi * progress)) / 2 if schedule.shape == "cosine" else progress
        target = schedule.start + (max_seq_len - schedule.start) * ramp
    return max(seq_len for seq_len in range(1, max_seq_len + 1) if max_seq_len % seq_len == 0 and seq_len <= target + 1e-9)


def split_sequences(batch: BatchT, seq_len: int) -> BatchT:
    """Split every sequence into sequences of `seq_len`, a divisor of its length.

    No target is lost: the last target of one part is the first input of the next.
    """
    return batch.map(lambda tensor_BT: tensor_BT.reshape(-1, seq_len))
