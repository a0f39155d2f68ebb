"""Test that an exact resume passes, and each planted fault is named."""

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
def case(dataset, model_config, make_config):
    config = make_config(data_packing="concat_and_chunk")
    return TrainingCase(SPEC, lambda: SPEC.build(model_config, dataset.vocab_size), build_dataloader(dataset, config), config)


def spoiled(case, folder, spoil):
    def load(folder):
        loaded = checkpoint.load_checkpoint(folder)
        spoil(loaded)
        return loaded

    return find_mismatches(*run_with_and_without_resume(case, folder, load))


def test_a_resumed_training_ends_in_the_same_bits(case, tmp_path):
    assert spoiled(case, tmp_path / "c", lambda loaded: None) == []


def test_the_metrics_count_no_mismatch(case, tmp_path):
    recorder = MetricRecorder()
    record_resume_metrics(recorder, case, tmp_path / "c", checkpoint.load_checkpoint)
    values = {name: metric.value for name, metric in recorder.metrics.items()}
    assert (values["mismatches"], values["checkpoint_step"]) == (0, RESUME_STEP)
    assert values["tensors_compared"] > len(list(case.build().parameters()))


def test_a_weight_that_differs_in_one_bit_is_caught(case, tmp_path):
    def spoil(loaded):
        weight = loaded.state_dicts["model"]["norm.weight"]
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))

    assert "model/norm.weight" in spoiled(case, tmp_path / "c", spoil)


def test_a_lost_momentum_is_caught(case, tmp_path):
    def spoil(loaded):
        name = next(name for name in loaded.state_dicts["optimizer"] if name.endswith("exp_avg"))
        loaded.state_dicts["optimizer"][name].zero_()

    assert any(name.startswith("optimizer/") for name in spoiled(case, tmp_path / "c", spoil))


def test_a_lost_random_state_is_caught_by_the_next_loss(case, tmp_path):
    """The model has dropout."""

    def spoil(loaded):
        loaded.state_dicts["rng"]["cpu"].copy_(torch.Generator().manual_seed(9).get_state())

    assert f"loss of step {RESUME_STEP + 1}" in spoiled(case, tmp_path / "c", spoil)


@pytest.mark.parametrize(("key", "value"), [("samples_seen", 0), ("step", 1)])
def test_a_lost_data_position_or_step_is_caught(case, tmp_path, key, value):
    invalid = spoiled(case, tmp_path / "c", lambda loaded: loaded.metadata.update({key: value}))
    assert key in invalid
    assert any(name.startswith("model/") for name in invalid)


def test_the_description_names_the_first_mismatches(case, tmp_path):
    def load(folder):
        loaded = checkpoint.load_checkpoint(folder)
        return replace(loaded, metadata={**loaded.metadata, "samples_seen": 0})

    recorder = MetricRecorder()
    record_resume_metrics(recorder, case, tmp_path / "c", load)
    assert recorder.metrics["mismatches"].value > 0
    assert "loss of step 3" in recorder.metrics["mismatches"].description
