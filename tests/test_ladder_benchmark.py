"""Test the NumPy model of the ladder benchmark: it equals ours, and the benchmark refuses a different one."""

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


@pytest.fixture(params=[("ladder_memorise", 37, 4), ("ladder_copilot", 61, 20)], ids=lambda case: case[0])
def model_and_batch(request, ladder):
    """Return a resolved model, its vocabulary size and a batch of three sequences."""
    name, vocab_size, seq_len = request.param
    torch.set_num_threads(1)
    resolved = resolve_model(config.load_params(ROOT / "params.yaml").entry("recipes", name)["model"], name)
    return resolved, vocab_size, ladder.random_nonzero_batch(vocab_size, 3, seq_len)


def test_the_numpy_gradients_equal_ours(ladder, model_and_batch):
    assert ladder.max_gradient_difference(*model_and_batch) < 1e-12


def test_a_gradient_scaled_by_three_millionths_is_refused(ladder, model_and_batch, monkeypatch):
    correct = ladder.numpy_gpt.mlp_backward
    monkeypatch.setattr(ladder.numpy_gpt, "mlp_backward", lambda grad_BTD, *rest: correct(grad_BTD * (1 + 3e-6), *rest))
    with pytest.raises(RuntimeError, match="these are different models"):
        ladder.max_gradient_difference(*model_and_batch)
