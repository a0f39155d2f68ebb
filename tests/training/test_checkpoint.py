"""Test that checkpoints are complete or absent, and detect damage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from provenlm.core.errors import ProvenlmError
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint, ModelMetadata
from provenlm.training.checkpoints.manager import CheckpointManager, step_dir
from provenlm.training.config_sections import CheckpointConfig

KEEP = CheckpointConfig(5, 2, None, False)


def make_checkpoint(value: float) -> Checkpoint:
    return Checkpoint({"model": {"w": torch.full((3,), value)}}, {"step": int(value)})


def save_steps(root: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save_checkpoint(step_dir(root, step), make_checkpoint(step), {"note.txt": b"beside"})


def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    save_steps(tmp_path, 4)
    loaded = checkpoint.load_checkpoint(tmp_path / "step-00000004")
    assert loaded.metadata == {"step": 4}
    assert loaded.state_dicts["model"]["w"].tolist() == [4, 4, 4]
    assert (tmp_path / "step-00000004" / "note.txt").read_bytes() == b"beside"


@pytest.mark.parametrize("fault", ["flipped", "shortened", "deleted", "manifest"])
def test_a_damaged_latest_checkpoint_is_passed_over_with_a_message(tmp_path: Path, fault: str) -> None:
    save_steps(tmp_path, 5, 10)
    file = tmp_path / "step-00000010" / "model.safetensors"
    data = file.read_bytes()
    if fault == "flipped":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "shortened":
        file.write_bytes(data[:-1])
    elif fault == "deleted":
        file.unlink()
    else:
        (tmp_path / "step-00000010" / "manifest.json").write_text("{")
    messages: list[str] = []
    assert CheckpointManager(tmp_path, KEEP, messages.append).latest() == tmp_path / "step-00000005"
    assert len(messages) == 1
    assert "step-00000010 is damaged" in messages[0]
    with pytest.raises(ProvenlmError, match="damaged or incomplete checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "step-00000010")


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path) -> None:
    save_steps(tmp_path, 5)
    (tmp_path / ".tmp-step-00000010").mkdir()
    assert CheckpointManager(tmp_path, KEEP, print).latest() == tmp_path / "step-00000005"
    assert not (tmp_path / ".tmp-step-00000010").exists()


def test_the_rng_states_survive_json() -> None:
    rng_state.seed_all(11)
    torch.rand(3), np.random.rand(5), np.random.standard_normal()
    tensors, metadata = rng_state.get_rng_state()
    expected = torch.rand(4).tolist(), np.random.standard_normal(3).tolist()
    torch.rand(9), np.random.rand(9)
    rng_state.set_rng_state(tensors, json.loads(json.dumps(metadata)))
    assert (torch.rand(4).tolist(), np.random.standard_normal(3).tolist()) == expected


def test_a_loaded_model_equals_the_saved_one(tmp_path: Path, model_config: Any) -> None:
    model = SPEC.build(model_config, 20).eval()
    model_metadata = ModelMetadata("moe", vars(model_config), 20, 8)
    checkpoint.save_checkpoint(
        tmp_path / "m", Checkpoint({"model": model.state_dict()}, {}), {"model.json": model_metadata.to_json()}
    )
    loaded = checkpoint.load_model(tmp_path / "m")
    ids = torch.tensor([[2, 5, 9]])
    assert loaded.metadata == model_metadata
    assert torch.equal(loaded.spec.logits(loaded.model, ids), SPEC.logits(model, ids))


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path, model_config: Any) -> None:
    model = SPEC.build(model_config, 20)
    model_metadata = ModelMetadata("moe", vars(model_config), 21, 8)
    checkpoint.save_checkpoint(
        tmp_path / "m", Checkpoint({"model": model.state_dict()}, {}), {"model.json": model_metadata.to_json()}
    )
    with pytest.raises(ProvenlmError, match=r"model.safetensors does not fit model.json.*embed_tokens"):
        checkpoint.load_model(tmp_path / "m")
