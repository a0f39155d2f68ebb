"""A step and a full length in, the length of that step's rows out; a batch of long rows in, the same tokens as shorter rows out.

Short rows first are cheaper in attention and calmer (Li et al. 2022, arXiv 2108.06084). The tokens of a step, and their order over
the run, do not depend on the length.
"""

import math

from provenlm.models.common.objective import Batch
from provenlm.training.config_sections import Curriculum


def length_at(curriculum: Curriculum | None, step: int, full: int) -> int:
    """Positions a row at `step` of 0, 1 …: the largest divisor of `full` that is no longer than the curve from `begin` to `full`."""
    if curriculum is None or step >= curriculum.steps:
        return full
    done = step / curriculum.steps
    if curriculum.growth == "exponential":
        wanted = curriculum.begin * (full / curriculum.begin) ** done
    else:
        share = (1 - math.cos(math.pi * done)) / 2 if curriculum.growth == "cosine" else done
        wanted = curriculum.begin + (full - curriculum.begin) * share
    return max(length for length in range(1, full + 1) if full % length == 0 and length <= wanted + 1e-9)


def shortened(batch: Batch, length: int) -> Batch:
    """Every row cut into rows of `length`, which divides theirs. No target is lost: the last one of a piece begins the next."""
    return batch.each(lambda each_BT: each_BT.reshape(-1, length))
