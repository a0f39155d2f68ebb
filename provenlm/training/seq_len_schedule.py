"""A step and a full length in, the length of that step's rows out; a batch of long rows in, the same tokens as shorter rows out.

Short rows first are cheaper in attention and calmer (Li et al. 2022, arXiv 2108.06084). The tokens of a step, and their order over
the run, do not depend on the length.
"""

import math

from provenlm.models.common.objective import Batch
from provenlm.training.config_sections import SeqLenScheduleConfig


def seq_len_at_step(schedule: SeqLenScheduleConfig | None, step: int, max_seq_len: int) -> int:
    """Positions a row at `step` of 0, 1 …: the largest divisor of `full` that is no longer than the curve from `begin` to `full`."""
    if schedule is None or step >= schedule.steps:
        return max_seq_len
    progress = step / schedule.steps
    if schedule.shape == "exponential":
        target = schedule.start * (max_seq_len / schedule.start) ** progress
    else:
        ramp = (1 - math.cos(math.pi * progress)) / 2 if schedule.shape == "cosine" else progress
        target = schedule.start + (max_seq_len - schedule.start) * ramp
    return max(seq_len for seq_len in range(1, max_seq_len + 1) if max_seq_len % seq_len == 0 and seq_len <= target + 1e-9)


def split_sequences(batch: Batch, seq_len: int) -> Batch:
    """Every row cut into rows of `length`, which divides theirs. No target is lost: the last one of a piece begins the next."""
    return batch.map(lambda each_BT: each_BT.reshape(-1, seq_len))
