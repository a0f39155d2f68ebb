"""One real batch through every link before training: a sound run passes, and each planted fault names its link."""

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
def coming(tokens, shape, settings):
    raw = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    described = ModelMetadata("moe", raw, 20, 8)
    return RunPlan(SPEC, shape, described, settings(), tokens, CharacterTokenizer(LETTERS, add_eos=False), torch.device("cpu"))


def figures_of(coming, folder):
    recorder = MetricRecorder()
    run_preflight(coming, folder, recorder)
    return recorder


def test_a_sound_run_goes_through_every_link_and_leaves_nothing_behind(coming, tmp_path):
    found = figures_of(coming, tmp_path / "resume")
    assert [row[0] for row in found.tables[0].rows] == [
        *("tokenizer", "batch", "net", "loss, gradients and update", "checkpoint", "reading it back", "generation")
    ]
    assert found.metrics["ready.links"].value == 7
    assert found.metrics["ready.moved"].value > 0
    assert found.metrics["ready.loss"].value == pytest.approx(np.log(20), abs=0.3)
    assert list((tmp_path / "resume").iterdir()) == []


def broken(coming, folder, link, words):
    with pytest.raises(ProvenlmError, match=rf"^not ready to train: {link}: .*{words}"):
        run_preflight(coming, folder, MetricRecorder())


def test_a_codec_of_another_vocabulary_is_caught(coming, tmp_path):
    broken(
        replace(coming, tokenizer=CharacterTokenizer(LETTERS[:-1], add_eos=False)),
        tmp_path,
        "tokenizer",
        "a vocabulary of 19, the tokens one of 20",
    )


def test_a_codec_that_does_not_give_the_same_tokens_again_is_caught(coming, tmp_path):
    class Other(CharacterTokenizer):
        def decode(self, ids):
            return super().decode(ids)[:-1]

    broken(replace(coming, tokenizer=Other(LETTERS, add_eos=False)), tmp_path, "tokenizer", "is not itself from token")


def test_ids_beyond_the_vocabulary_are_caught(coming, tmp_path):
    split = coming.tokens.train
    ids = split.ids.copy()
    ids[split.starts[1] :] = 25
    wrong = replace(coming.tokens, train=replace(split, ids=ids))
    broken(replace(coming, tokens=wrong), tmp_path, "batch", "holds the id 25; the vocabulary ends at 19")


def test_a_net_that_cannot_be_built_is_caught(coming, tmp_path):
    def failing(settings, vocabulary):
        raise TypeError("embedding takes a number, not a method")

    broken(replace(coming, net=replace(SPEC, build=failing)), tmp_path, "net", "TypeError: embedding takes a number")


def test_a_loss_that_crashes_is_caught(coming, tmp_path):
    def objectives(model, ignore):
        (one,) = SPEC.objectives(model, ignore)

        def crash(batch):
            raise RuntimeError("Explicit attn_mask should not be set when is_causal=True")

        return [replace(one, loss=crash)]

    broken(replace(coming, net=replace(SPEC, objectives=objectives)), tmp_path, "loss, gradients and update", "attn_mask")


def test_an_update_that_moves_nothing_is_caught(coming, tmp_path):
    def objectives(model, ignore):
        (one,) = SPEC.objectives(model, ignore)
        begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def undo(applied):
            model.load_state_dict(begun)
            return one.post_step(applied)

        return [replace(one, after=undo)]

    broken(replace(coming, net=replace(SPEC, objectives=objectives)), tmp_path, "loss, gradients and update", "moved no parameter")


def test_a_loss_without_a_gradient_is_caught(coming, tmp_path):
    def objectives(model, ignore):
        (one,) = SPEC.objectives(model, ignore)
        return [replace(one, loss=lambda batch: {name: value * 0 for name, value in one.loss(batch).items()})]

    broken(
        replace(coming, net=replace(SPEC, objectives=objectives)),
        tmp_path,
        "loss, gradients and update",
        "norm of the first step is 0",
    )


def test_a_loss_that_is_not_a_number_is_caught(coming, tmp_path):
    def objectives(model, ignore):
        (one,) = SPEC.objectives(model, ignore)
        return [replace(one, loss=lambda batch: {name: value * float("nan") for name, value in one.loss(batch).items()})]

    broken(replace(coming, net=replace(SPEC, objectives=objectives)), tmp_path, "loss, gradients and update", "skipped: not finite")


def test_a_checkpoint_that_cannot_be_written_is_caught(coming, tmp_path, monkeypatch):
    def full(folder, state, extra):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    broken(coming, tmp_path, "checkpoint", "No space left")


def test_weights_that_are_read_back_otherwise_are_caught(coming, tmp_path, monkeypatch):
    real = checkpoint.load_model

    def bent(folder):
        loaded = real(folder)
        loaded.model.norm.weight.data[0] += 1
        return loaded

    monkeypatch.setattr(checkpoint, "load_net", bent)
    broken(coming, tmp_path, "reading it back", "norm.weight is not what was written")


def test_a_net_that_cannot_generate_is_caught(coming, tmp_path):
    def crash(model, tokens_BT):
        raise RuntimeError("no logits")

    broken(replace(coming, net=replace(SPEC, logits=crash)), tmp_path, "generation", "no logits")
