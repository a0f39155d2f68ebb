"""Test the EMA of the weights, and that it is evaluated and published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from provenlm.models.common.objective import IGNORE
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.optim.ema import EMA


def test_the_ema_worked_out_by_hand() -> None:
    """From 0: after step 1 with decay 2/11 of 0.9 at most, after step 2 with 3/12."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        ema = EMA(model, 0.9)
        model.weight.fill_(11.0)
        ema.update(1)
        assert ema.tensors["weight"].item() == pytest.approx(9.0)
        model.weight.fill_(1.0)
        ema.update(2)
        assert ema.tensors["weight"].item() == pytest.approx(9 * 0.25 + 0.75)
        ema.update(10**6)
        assert ema.tensors["weight"].item() == pytest.approx(3.0 * 0.9 + 0.1)


def test_the_model_gets_its_weights_back_after_an_exception() -> None:
    model = nn.Linear(2, 2)
    ema, weights = EMA(model, 0.5), model.weight.detach().clone()
    ema.tensors["weight"].fill_(7.0)
    with pytest.raises(KeyError), ema.applied():
        assert model.weight.tolist() == [[7.0, 7.0], [7.0, 7.0]]
        raise KeyError
    assert torch.equal(model.weight, weights)
    assert ema.tensors["weight"].tolist() == [[7.0, 7.0], [7.0, 7.0]]


def test_the_ema_is_evaluated_and_published_and_changes_no_step(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    ends = {}
    for ema in (None, 0.9):
        rng_state.seed_all(3)
        model, config = SPEC.build(model_config, 20), make_config(ema_decay=ema)
        objectives, dataloader = SPEC.objectives(model, IGNORE), build_dataloader(dataset, config)
        *_, last = train_steps(model, objectives, dataloader, [], config, None, lambda: None)
        ends[ema] = (last, model)
    (plain, _), (last, model) = ends[None], ends[0.9]
    assert last.terms == plain.terms
    assert last.val_losses != plain.val_losses
    state = last.snapshot()
    model_metadata = ModelMetadata("moe", vars(model_config), 20, 8)
    checkpoint.save_checkpoint(tmp_path / "c", state, {"model.json": model_metadata.to_json()})
    published = checkpoint.load_model(tmp_path / "c")
    (batch,) = build_dataloader(dataset, make_config()).val_batches
    with torch.no_grad():
        repeated = SPEC.objectives(published.model, IGNORE)[0].loss(batch)
    assert last.val_losses == pytest.approx({name: value.item() for name, value in repeated.items()}, rel=1e-6)
    assert all(torch.equal(tensor, state.state_dicts["training_weights"][name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(state.state_dicts["model"]["norm.weight"], state.state_dicts["training_weights"]["norm.weight"])
