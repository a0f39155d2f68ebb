"""Test that the preflight passes a sound run and names the step of each fault."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.models.moe.spec import SPEC
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.preflight import RunPlan, run_preflight

LETTERS = "abcdefghijklmnopqrs"  # ids 1 to 19


@pytest.fixture
def plan(dataset, model_config, make_config):
    raw = {name: getattr(model_config, name) for name in model_config.__dataclass_fields__}
    model_metadata = ModelMetadata("moe", raw, 20, 8)
    return RunPlan(
        SPEC, model_config, model_metadata, make_config(), dataset, CharacterTokenizer(LETTERS, add_eos=False), torch.device("cpu")
    )


def record(plan, folder):
    recorder = MetricRecorder()
    run_preflight(plan, folder, recorder)
    return recorder


def test_a_sound_run_passes_every_step_and_leaves_no_files(plan, tmp_path):
    recorder = record(plan, tmp_path / "resume")
    assert [row[0] for row in recorder.tables[0].rows] == [
        *("tokenizer", "batch", "model", "loss, gradients and update", "checkpoint", "reload", "generation")
    ]
    assert recorder.metrics["preflight.steps_passed"].value == 7
    assert recorder.metrics["preflight.params_updated"].value > 0
    assert recorder.metrics["preflight.loss"].value == pytest.approx(np.log(20), abs=0.3)
    assert list((tmp_path / "resume").iterdir()) == []


def assert_fails(plan, folder, step, text):
    with pytest.raises(ProvenlmError, match=rf"^preflight: {step}: .*{text}"):
        run_preflight(plan, folder, MetricRecorder())


def test_a_tokenizer_with_another_vocab_size_is_caught(plan, tmp_path):
    assert_fails(
        replace(plan, tokenizer=CharacterTokenizer(LETTERS[:-1], add_eos=False)),
        tmp_path,
        "tokenizer",
        "vocab_size must be 20, got 19",
    )


def test_a_tokenizer_that_does_not_reproduce_the_tokens_is_caught(plan, tmp_path):
    class LossyTokenizer(CharacterTokenizer):
        def decode(self, ids):
            return super().decode(ids)[:-1]

    assert_fails(replace(plan, tokenizer=LossyTokenizer(LETTERS, add_eos=False)), tmp_path, "tokenizer", "changes it from token")


def test_token_ids_beyond_the_vocabulary_are_caught(plan, tmp_path):
    split = plan.dataset.train
    ids = split.ids.copy()
    ids[split.doc_offsets[1] :] = 25
    invalid = replace(plan.dataset, train=replace(split, ids=ids))
    assert_fails(replace(plan, dataset=invalid), tmp_path, "batch", "token ids must be < 20, the first batch has 25")


def test_a_model_that_cannot_be_built_is_caught(plan, tmp_path):
    def failing(config, vocab_size):
        raise TypeError("embedding takes a number, not a method")

    assert_fails(replace(plan, spec=replace(SPEC, build=failing)), tmp_path, "model", "TypeError: embedding takes a number")


def test_a_loss_that_crashes_is_caught(plan, tmp_path):
    def objectives(model, ignore):
        (first,) = SPEC.objectives(model, ignore)

        def crash(batch):
            raise RuntimeError("Explicit attn_mask should not be set when is_causal=True")

        return [replace(first, loss=crash)]

    assert_fails(replace(plan, spec=replace(SPEC, objectives=objectives)), tmp_path, "loss, gradients and update", "attn_mask")


def test_an_update_that_changes_nothing_is_caught(plan, tmp_path):
    def objectives(model, ignore):
        (first,) = SPEC.objectives(model, ignore)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def undo(applied):
            model.load_state_dict(start)
            return first.post_step(applied)

        return [replace(first, post_step=undo)]

    assert_fails(
        replace(plan, spec=replace(SPEC, objectives=objectives)), tmp_path, "loss, gradients and update", "changed no parameter"
    )


def test_a_loss_without_a_gradient_is_caught(plan, tmp_path):
    def objectives(model, ignore):
        (first,) = SPEC.objectives(model, ignore)
        return [replace(first, loss=lambda batch: {name: value * 0 for name, value in first.loss(batch).items()})]

    assert_fails(
        replace(plan, spec=replace(SPEC, objectives=objectives)),
        tmp_path,
        "loss, gradients and update",
        "gradient norm of the first step must be finite and > 0, got 0",
    )


def test_a_nan_loss_is_caught(plan, tmp_path):
    def objectives(model, ignore):
        (first,) = SPEC.objectives(model, ignore)
        return [replace(first, loss=lambda batch: {name: value * float("nan") for name, value in first.loss(batch).items()})]

    assert_fails(
        replace(plan, spec=replace(SPEC, objectives=objectives)), tmp_path, "loss, gradients and update", "skipped: not finite"
    )


def test_a_checkpoint_that_cannot_be_written_is_caught(plan, tmp_path, monkeypatch):
    def full(folder, state, extra):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    assert_fails(plan, tmp_path, "checkpoint", "No space left")


def test_reloaded_weights_that_differ_are_caught(plan, tmp_path, monkeypatch):
    real = checkpoint.load_model

    def bent(folder):
        loaded = real(folder)
        loaded.model.norm.weight.data[0] += 1
        return loaded

    monkeypatch.setattr(checkpoint, "load_model", bent)
    assert_fails(plan, tmp_path, "reload", "norm.weight differs from the saved tensor")


def test_a_model_that_cannot_generate_is_caught(plan, tmp_path):
    def crash(model, tokens_BT):
        raise RuntimeError("no logits")

    assert_fails(replace(plan, spec=replace(SPEC, logits=crash)), tmp_path, "generation", "no logits")
