"""Test early stopping and learning-rate reduction on a plateau."""

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
from provenlm.training.step import ReduceLR, StepResult, StopTraining
from provenlm.training.trainer import build_callbacks


def actions(callback: PatienceCallback, losses: list[float | None]) -> list[Any]:
    steps: list[Any] = [type("FakeStep", (), {"val_losses": None if loss is None else {"j": loss}}) for loss in losses]
    return [callback.post_step(step) for step in steps]


def test_training_stops_after_patience_evaluations() -> None:
    results = actions(PatienceCallback(EarlyStoppingConfig(2, 0.0), "j"), [3.0, None, 2.0, 2.0, None, 2.5])
    assert results[:5] == [None] * 5
    assert results[5] == StopTraining("validation j has not improved on 2.0000 for 2 evaluations")


def test_an_improvement_below_min_delta_does_not_count() -> None:
    assert isinstance(actions(PatienceCallback(EarlyStoppingConfig(1, 0.1), "j"), [3.0, 2.95])[1], StopTraining)
    assert actions(PatienceCallback(EarlyStoppingConfig(1, 0.1), "j"), [3.0, 2.85])[1] is None


def test_every_plateau_lowers_the_learning_rates() -> None:
    results = actions(PatienceCallback(ReduceLROnPlateauConfig(2, 0.0, 0.5), "j"), [1.0, 2.0, 2.0, 2.0, 2.0])
    assert [isinstance(each, ReduceLR) for each in results] == [False, False, True, False, True]


@pytest.mark.parametrize("before", [0, 1, 3])
def test_the_patience_count_survives_a_checkpoint(before: int) -> None:
    losses: list[float | None] = [1.0, 2.0, 2.0, 2.0]
    first, second = PatienceCallback(EarlyStoppingConfig(3, 0.0), "j"), PatienceCallback(EarlyStoppingConfig(3, 0.0), "j")
    actions(first, losses[:before])
    second.load_state_dict(first.state_dict())
    assert actions(second, losses[before:]) == actions(first, losses[before:])


def trained(dataset: Any, model_config: Any, config: Any, resume: Any = None) -> list[StepResult]:
    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    objectives = SPEC.objectives(model, IGNORE)
    callbacks = build_callbacks(config, objectives[0].eval_term)
    return list(train_steps(model, objectives, build_dataloader(dataset, config), callbacks, config, resume, lambda: None))


def test_both_patience_callbacks_act_and_survive_a_resume(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    """With min_delta 9 no evaluation counts as an improvement, so both callbacks act when their patience ends."""
    config = make_config(
        eval=TrainEvalConfig(1, 4),
        reduce_lr_on_plateau=ReduceLROnPlateauConfig(2, 9.0, 0.5),
        early_stopping=EarlyStoppingConfig(7, 9.0),
        max_steps=20,
    )
    full = trained(dataset, model_config, config)
    plain = trained(dataset, model_config, make_config(eval=TrainEvalConfig(1, 4), max_steps=20))
    assert [s.number for s in full if s.lr_drop_reason] == [3, 5, 7]
    assert [a.lr_scale / b.lr_scale for a, b in zip(full, plain, strict=False)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert full[-1].number == 8
    assert "for 7 evaluations" in (full[-1].stop_reason or "")

    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    objectives = SPEC.objectives(model, IGNORE)
    steps = train_steps(
        model,
        objectives,
        build_dataloader(dataset, config),
        build_callbacks(config, objectives[0].eval_term),
        config,
        None,
        lambda: None,
    )
    state = next(step for step in steps if step.number == 4).snapshot()
    rest = trained(dataset, model_config, config, state)
    assert [(s.number, s.terms, s.lr_scale, s.lr_drop_reason, s.stop_reason) for s in rest] == [
        (s.number, s.terms, s.lr_scale, s.lr_drop_reason, s.stop_reason) for s in full[4:]
    ]


def test_early_stopping_needs_eval(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="early_stopping needs the validation loss: eval must be set, got null"):
        make_config(eval=None, early_stopping=EarlyStoppingConfig(2, 0.0))
