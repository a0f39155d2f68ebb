"""Test the learning-rate schedules at points worked out by hand."""

import pytest

from provenlm.training.config_sections import LRScheduleConfig
from provenlm.training.optim.lr_scheduler import lr_scale


def scales(schedule: LRScheduleConfig, steps: int) -> list[float]:
    return [lr_scale(schedule, step, steps) for step in range(steps)]


def test_linear_rises_in_the_warm_up_and_falls_to_the_end() -> None:
    assert scales(LRScheduleConfig(2, 0, "linear", 0.0), 6) == pytest.approx([0.5, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_linear_decay_ends_at_the_min_lr_factor() -> None:
    assert scales(LRScheduleConfig(0, 0, "linear", 0.2), 4) == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    # (1 + cos(π·k/4)) / 2 for k = 1 … 4
    assert scales(LRScheduleConfig(0, 0, "cosine", 0.0), 4) == pytest.approx([0.8535534, 0.5, 0.1464466, 0.0])


def test_stable_steps_before_a_linear_decay_are_warmup_stable_decay() -> None:
    assert scales(LRScheduleConfig(1, 3, "linear", 0.0), 6) == pytest.approx([1, 1, 1, 1, 0.5, 0.0])


def test_stable_steps_to_the_end_never_decay() -> None:
    assert scales(LRScheduleConfig(2, 2, "linear", 0.0), 4) == pytest.approx([0.5, 1, 1, 1])


def test_inverse_square_root_falls_from_the_end_of_the_warm_up() -> None:
    # sqrt(4 / n) for the n-th step
    assert scales(LRScheduleConfig(4, 0, "inverse_sqrt", 0.0), 16)[3:] == pytest.approx([(4 / n) ** 0.5 for n in range(4, 17)])


def test_inverse_square_root_stays_above_the_min_lr_factor() -> None:
    assert scales(LRScheduleConfig(1, 0, "inverse_sqrt", 0.4), 9)[-1] == 0.4
