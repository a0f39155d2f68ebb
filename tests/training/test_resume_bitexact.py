"""Stopping and taking up: a sound checkpoint gives the same bits, a spoiled one does not and is named."""

from dataclasses import replace

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.resume_bitexact import (
    RESUME_STEP,
    TrainingCase,
    find_mismatches,
    record_resume_metrics,
    run_with_and_without_resume,
)
from provenlm.models.moe.spec import SPEC
from provenlm.training.checkpoints import checkpoint
from provenlm.training.dataloader import build_dataloader


@pytest.fixture
def trial(tokens, shape, settings):
    usual = settings(batches="windows")
    return TrainingCase(SPEC, lambda: SPEC.build(shape, tokens.vocabulary), build_dataloader(tokens, usual), usual)


def spoiled(trial, folder, spoil):
    def read(where):
        found = checkpoint.load_checkpoint(where)
        spoil(found)
        return found

    return find_mismatches(*run_with_and_without_resume(trial, folder, read))


def test_a_training_that_was_stopped_and_taken_up_ends_in_the_same_bits(trial, tmp_path):
    assert spoiled(trial, tmp_path / "c", lambda found: None) == []


def test_the_figures_say_so(trial, tmp_path):
    recorder = MetricRecorder()
    record_resume_metrics(recorder, trial, tmp_path / "c", checkpoint.load_checkpoint)
    values = {name: figure.value for name, figure in recorder.metrics.items()}
    assert (values["differing"], values["cut"]) == (0, RESUME_STEP)
    assert values["compared"] > len(list(trial.build().parameters()))


def test_a_weight_that_is_one_bit_off_is_caught(trial, tmp_path):
    def spoil(found):
        weight = found.tensors["model"]["norm.weight"]
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))

    assert "model/norm.weight" in spoiled(trial, tmp_path / "c", spoil)


def test_a_momentum_that_was_lost_is_caught(trial, tmp_path):
    def spoil(found):
        name = next(name for name in found.tensors["optimizer"] if name.endswith("exp_avg"))
        found.tensors["optimizer"][name].zero_()

    assert any(name.startswith("optimizer/") for name in spoiled(trial, tmp_path / "c", spoil))


def test_random_numbers_that_begin_anew_are_caught_by_the_loss_of_the_next_step(trial, tmp_path):
    """The net has dropout."""

    def spoil(found):
        found.tensors["random"]["cpu"].copy_(torch.Generator().manual_seed(9).get_state())

    assert f"loss of step {RESUME_STEP + 1}" in spoiled(trial, tmp_path / "c", spoil)


@pytest.mark.parametrize(("fact", "value"), [("position", 0), ("step", 1)])
def test_a_place_in_the_data_or_the_schedule_that_was_lost_is_caught(trial, tmp_path, fact, value):
    wrong = spoiled(trial, tmp_path / "c", lambda found: found.facts.update({fact: value}))
    assert fact in wrong
    assert any(name.startswith("model/") for name in wrong)


def test_the_first_names_stand_in_the_figures_meaning(trial, tmp_path):
    def read(where):
        found = checkpoint.load_checkpoint(where)
        return replace(found, facts={**found.metadata, "position": 0})

    recorder = MetricRecorder()
    record_resume_metrics(recorder, trial, tmp_path / "c", read)
    assert recorder.metrics["differing"].value > 0
    assert "loss of step 3" in recorder.metrics["differing"].description
