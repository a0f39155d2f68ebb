"""Test that a new model starts from the weights of a trained one, and only of one with the same shapes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from provenlm.core.errors import CheckpointError
from provenlm.models.music_transformer.config import MusicTransformerConfig
from provenlm.models.music_transformer.spec import SPEC

CONFIG = MusicTransformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)


@pytest.fixture
def folder(harness, tmp_path: Path) -> Path:
    save_file(harness.build_random(SPEC, CONFIG).state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_a_new_model_gets_the_weights_of_the_base_model(harness, folder):
    assert SPEC.load_base_model is not None
    model, ids = SPEC.build(CONFIG, 61), harness.tokens()
    SPEC.load_base_model(model, folder)
    assert torch.equal(SPEC.logits(model, ids), SPEC.logits(harness.build_random(SPEC, CONFIG), ids))


@pytest.mark.parametrize("changes", [{"hidden_size": 32}, {"num_hidden_layers": 2}, {"tie_word_embeddings": False}], ids=str)
def test_a_base_model_of_another_shape_is_refused(folder, changes):
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: must hold the weights of a model of the same config, got: Error"
    ):
        SPEC.load_base_model(SPEC.build(replace(CONFIG, **changes), 61), folder)


@pytest.mark.parametrize("content", [None, b"{}", b"\x08\0\0\0\0\0\0\0 broken!"], ids=["missing", "short", "broken"])
def test_a_base_model_that_cannot_be_read_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: must hold the weights"):
        SPEC.load_base_model(SPEC.build(CONFIG, 61), tmp_path)
