"""A step's index in, its share of the peak learning rate out."""

import math

from provenlm.training.config_sections import LRScheduleConfig


def lr_scale(schedule: LRScheduleConfig, step: int, total_steps: int) -> float:
    """The factor for `step` of 0 … steps - 1. The first step of a warm-up of n is 1/n, its last is 1; the very last step is `final`
    (where there is a linear or cosine decay)."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    decay_start = schedule.warmup_steps + schedule.stable_steps
    if step < decay_start:
        return 1.0
    if schedule.decay_type == "inverse_sqrt":
        return max(
            schedule.min_lr_factor, math.sqrt(max(decay_start, 1) / (step + 1))
        )  # Vaswani et al. 2017, 1 at the end of the warm-up
    progress = (step - decay_start + 1) / (total_steps - decay_start)  # in (0, 1]
    decay = (1 - math.cos(math.pi * progress)) / 2 if schedule.decay_type == "cosine" else progress
    return 1 - (1 - schedule.min_lr_factor) * decay
