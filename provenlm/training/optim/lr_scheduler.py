"""Compute the learning-rate schedule."""

import math

from provenlm.training.config_sections import LRScheduleConfig


def lr_scale(schedule: LRScheduleConfig, step: int, total_steps: int) -> float:
    """Return the factor on the peak learning rate at `step` (0 … total_steps - 1).

    The first of n warm-up steps has 1/n, the last 1. With a linear or cosine decay the very last step has `min_lr_factor`.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    decay_start = schedule.warmup_steps + schedule.stable_steps
    if step < decay_start:
        return 1.0
    if schedule.decay_type == "inverse_sqrt":
        factor = math.sqrt(max(decay_start, 1) / (step + 1))  # Vaswani et al. 2017, scaled to 1 at the end of the warm-up
        return max(schedule.min_lr_factor, factor)
    progress = (step - decay_start + 1) / (total_steps - decay_start)  # in (0, 1]
    decay = (1 - math.cos(math.pi * progress)) / 2 if schedule.decay_type == "cosine" else progress
    return 1 - (1 - schedule.min_lr_factor) * decay
