"""A step's index in, its share of the peak learning rate out."""

import math

from provenlm.training.config_sections import Schedule


def share(schedule: Schedule, step: int, steps: int) -> float:
    """The factor for `step` of 0 … steps - 1. The first step of a warm-up of n is 1/n, its last is 1; the very last step is `final`
    (where there is a linear or cosine decay)."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    begin = schedule.warmup + schedule.hold
    if step < begin:
        return 1.0
    if schedule.decay == "inverse_sqrt":
        return max(schedule.final, math.sqrt(max(begin, 1) / (step + 1)))  # Vaswani et al. 2017, 1 at the end of the warm-up
    done = (step - begin + 1) / (steps - begin)  # in (0, 1]
    fallen = (1 - math.cos(math.pi * done)) / 2 if schedule.decay == "cosine" else done
    return 1 - (1 - schedule.final) * fallen
