"""The net in NumPy that the ladder is timed beside: it must be the same net, and the benchmark must refuse another."""

from pathlib import Path

import pytest
import torch

from provenlm.core import config
from provenlm.models.common.spec import resolve_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ladder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ladder  # benchmarks/ladder.py

    return ladder


@pytest.fixture(params=[("ladder_memorise", 37, 4), ("ladder_copilot", 61, 20)], ids=lambda one: one[0])
def asked(request, ladder):
    """A net's settings, its vocabulary, and a batch of three rows."""
    name, vocabulary, length = request.param
    torch.set_num_threads(1)
    found = resolve_model(config.load_params(ROOT / "params.yaml").entry("recipes", name)["net"], name)
    return found, vocabulary, ladder.drawn(vocabulary, 3, length)


def test_its_gradients_are_ours(ladder, asked):
    assert ladder.apart(*asked) < 1e-12


def test_a_path_scaled_by_three_millionths_is_refused(ladder, asked, monkeypatch):
    honest = ladder.numpy_gpt.perceive_back
    monkeypatch.setattr(ladder.numpy_gpt, "perceive_back", lambda slope_BTD, *rest: honest(slope_BTD * (1 + 3e-6), *rest))
    with pytest.raises(RuntimeError, match="these are different nets"):
        ladder.apart(*asked)
