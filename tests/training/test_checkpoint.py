"""Checkpoints: whole or not there, and never unpickled."""

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


def some(value: float) -> Checkpoint:
    return Checkpoint({"model": {"w": torch.full((3,), value)}}, {"step": int(value)})


def saved(root: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save_checkpoint(step_dir(root, step), some(step), {"note.txt": b"beside"})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    back = checkpoint.load_checkpoint(tmp_path / "step-00000004")
    assert back.metadata == {"step": 4}
    assert back.state_dicts["model"]["w"].tolist() == [4, 4, 4]
    assert (tmp_path / "step-00000004" / "note.txt").read_bytes() == b"beside"


@pytest.mark.parametrize("fault", ["flipped", "shortened", "gone", "manifest"])
def test_a_damaged_newest_one_gives_way_to_an_older_one_and_says_so(tmp_path: Path, fault: str) -> None:
    saved(tmp_path, 5, 10)
    file = tmp_path / "step-00000010" / "model.safetensors"
    data = file.read_bytes()
    if fault == "flipped":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "shortened":
        file.write_bytes(data[:-1])
    elif fault == "gone":
        file.unlink()
    else:
        (tmp_path / "step-00000010" / "manifest.json").write_text("{")
    said: list[str] = []
    assert CheckpointManager(tmp_path, KEEP, said.append).latest() == tmp_path / "step-00000005"
    assert len(said) == 1
    assert "step-00000010 is damaged" in said[0]
    with pytest.raises(ProvenlmError, match="not a whole checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "step-00000010")


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    (tmp_path / ".tmp-step-00000010").mkdir()
    assert CheckpointManager(tmp_path, KEEP, print).latest() == tmp_path / "step-00000005"
    assert not (tmp_path / ".tmp-step-00000010").exists()


def test_the_random_states_survive_json() -> None:
    rng_state.seed_all(11)
    torch.rand(3), np.random.rand(5), np.random.standard_normal()
    tensors, facts = rng_state.get_rng_state()
    expected = torch.rand(4).tolist(), np.random.standard_normal(3).tolist()
    torch.rand(9), np.random.rand(9)
    rng_state.set_rng_state(tensors, json.loads(json.dumps(facts)))
    assert (torch.rand(4).tolist(), np.random.standard_normal(3).tolist()) == expected


def test_a_net_comes_back_from_its_folder_as_it_was(tmp_path: Path, shape: Any) -> None:
    model = SPEC.build(shape, 20).eval()
    described = ModelMetadata("moe", vars(shape), 20, 8)
    checkpoint.save_checkpoint(tmp_path / "m", Checkpoint({"model": model.state_dict()}, {}), {"net.json": described.to_json()})
    loaded = checkpoint.load_model(tmp_path / "m")
    ids = torch.tensor([[2, 5, 9]])
    assert loaded.metadata == described
    assert torch.equal(loaded.spec.logits(loaded.model, ids), SPEC.logits(model, ids))


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path, shape: Any) -> None:
    model = SPEC.build(shape, 20)
    described = ModelMetadata("moe", vars(shape), 21, 8)
    checkpoint.save_checkpoint(tmp_path / "m", Checkpoint({"model": model.state_dict()}, {}), {"net.json": described.to_json()})
    with pytest.raises(ProvenlmError, match=r"weights that do not fit net.json.*embed_tokens"):
        checkpoint.load_model(tmp_path / "m")
