"""Held-out losses that stay: rates fall, or training ends."""

from collections.abc import Callable
from typing import Any

import pytest

from provenlm.models.common.objective import IGNORE
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.callbacks.early_stopping import PatienceCallback
from provenlm.training.config_sections import EarlyStoppingConfig, ReduceLROnPlateauConfig, TrainEvalConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.run import build_callbacks
from provenlm.training.step import ReduceLR, StepResult, StopTraining


def answers(monitor: PatienceCallback, losses: list[float | None]) -> list[Any]:
    steps: list[Any] = [type("Seen", (), {"held_out": None if loss is None else {"j": loss}}) for loss in losses]
    return [monitor.post_step(step) for step in steps]


def test_it_ends_at_the_second_measurement_that_is_no_better() -> None:
    said = answers(PatienceCallback(EarlyStoppingConfig(2, 0.0), "j"), [3.0, None, 2.0, 2.0, None, 2.5])
    assert said[:5] == [None] * 5
    assert said[5] == StopTraining("j on held-out rows not below 2.0000 for 2 measurements")


def test_better_by_less_than_asked_for_is_not_better() -> None:
    assert isinstance(answers(PatienceCallback(EarlyStoppingConfig(1, 0.1), "j"), [3.0, 2.95])[1], StopTraining)
    assert answers(PatienceCallback(EarlyStoppingConfig(1, 0.1), "j"), [3.0, 2.85])[1] is None


def test_a_plateau_lowers_the_rates_again_and_again() -> None:
    said = answers(PatienceCallback(ReduceLROnPlateauConfig(2, 0.0, 0.5), "j"), [1.0, 2.0, 2.0, 2.0, 2.0])
    assert [isinstance(each, ReduceLR) for each in said] == [False, False, True, False, True]


@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_it_waited_survives_a_checkpoint(before: int) -> None:
    losses: list[float | None] = [1.0, 2.0, 2.0, 2.0]
    one, other = PatienceCallback(EarlyStoppingConfig(3, 0.0), "j"), PatienceCallback(EarlyStoppingConfig(3, 0.0), "j")
    answers(one, losses[:before])
    other.load_state_dict(one.state_dict())
    assert answers(other, losses[before:]) == answers(one, losses[before:])


def trained(tokens: Any, shape: Any, settings: Any, resume: Any = None) -> list[StepResult]:
    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    objectives = SPEC.objectives(model, IGNORE)
    monitors = build_callbacks(settings, objectives[0].eval_term)
    return list(train_steps(model, objectives, build_dataloader(tokens, settings), monitors, settings, resume, lambda: None))


def test_both_act_in_the_loop_and_a_resumed_run_does_the_same(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    """A loss must fall by 9 nats to count as better, so each of the two waits out its patience."""
    wanted = settings(
        held_out=TrainEvalConfig(1, 4),
        plateau=ReduceLROnPlateauConfig(2, 9.0, 0.5),
        early_stop=EarlyStoppingConfig(7, 9.0),
        steps=20,
    )
    whole = trained(tokens, shape, wanted)
    plain = trained(tokens, shape, settings(held_out=TrainEvalConfig(1, 4), steps=20))
    assert [s.number for s in whole if s.lr_drop_reason] == [3, 5, 7]
    assert [a.lr_scale / b.lr_scale for a, b in zip(whole, plain, strict=False)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert whole[-1].number == 8
    assert "for 7 measurements" in (whole[-1].stop_reason or "")

    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    objectives = SPEC.objectives(model, IGNORE)
    steps = train_steps(
        model,
        objectives,
        build_dataloader(tokens, wanted),
        build_callbacks(wanted, objectives[0].eval_term),
        wanted,
        None,
        lambda: None,
    )
    state = next(step for step in steps if step.number == 4).snapshot()
    rest = trained(tokens, shape, wanted, state)
    assert [(s.number, s.terms, s.lr_scale, s.lr_drop_reason, s.stop_reason) for s in rest] == [
        (s.number, s.terms, s.lr_scale, s.lr_drop_reason, s.stop_reason) for s in whole[4:]
    ]


def test_it_needs_held_out_rows(settings: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="early_stop needs held_out"):
        settings(held_out=None, early_stop=EarlyStoppingConfig(2, 0.0))
