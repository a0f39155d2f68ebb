"""The average of the weights: the one worked out by hand, judged and published in place of the last ones, and no part of the training."""

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


def test_the_average_is_the_one_worked_out_by_hand() -> None:
    """From 0: after step 1 with decay 2/11 of 0.9 at most, after step 2 with 3/12."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average = EMA(model, 0.9)
        model.weight.fill_(11.0)
        average.update(1)
        assert average.tensors["weight"].item() == pytest.approx(9.0)
        model.weight.fill_(1.0)
        average.update(2)
        assert average.tensors["weight"].item() == pytest.approx(9 * 0.25 + 0.75)
        average.update(10**6)
        assert average.tensors["weight"].item() == pytest.approx(3.0 * 0.9 + 0.1)


def test_shown_for_a_while_the_net_gets_its_own_weights_back_whatever_happens() -> None:
    model = nn.Linear(2, 2)
    average, own = EMA(model, 0.5), model.weight.detach().clone()
    average.tensors["weight"].fill_(7.0)
    with pytest.raises(KeyError), average.applied():
        assert model.weight.tolist() == [[7.0, 7.0], [7.0, 7.0]]
        raise KeyError
    assert torch.equal(model.weight, own)
    assert average.tensors["weight"].tolist() == [[7.0, 7.0], [7.0, 7.0]]


def test_the_average_is_judged_and_published_and_changes_no_step(
    tokens: Any, shape: Any, settings: Callable[..., Any], tmp_path: Path
) -> None:
    ends = {}
    for ema in (None, 0.9):
        rng_state.seed_all(3)
        model, wanted = SPEC.build(shape, 20), settings(ema=ema)
        objectives, batches = SPEC.objectives(model, IGNORE), build_dataloader(tokens, wanted)
        *_, last = train_steps(model, objectives, batches, [], wanted, None, lambda: None)
        ends[ema] = (last, model)
    (plain, _), (last, model) = ends[None], ends[0.9]
    assert last.terms == plain.terms
    assert last.held_out != plain.held_out
    state = last.snapshot()
    described = ModelMetadata("moe", vars(shape), 20, 8)
    checkpoint.save_checkpoint(tmp_path / "c", state, {"net.json": described.to_json()})
    published = checkpoint.load_model(tmp_path / "c")
    (batch,) = build_dataloader(tokens, settings()).val_batches
    with torch.no_grad():
        again = SPEC.objectives(published.model, IGNORE)[0].loss(batch)
    assert last.held_out == pytest.approx({name: value.item() for name, value in again.items()}, rel=1e-6)
    assert all(torch.equal(tensor, state.tensors["trained"][name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(state.tensors["model"]["norm.weight"], state.tensors["trained"]["norm.weight"])
