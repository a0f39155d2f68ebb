"""Test Lion, SGD and decoupled weight decay on numbers worked out by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from provenlm.models.common.objective import Objective
from provenlm.training.config_sections import OptimizerConfig, ParamGroupConfig
from provenlm.training.optim import factory


def make_optimizer(kind: str, betas: tuple[float, ...], decay: float = 0.0) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    group = ParamGroupConfig(kind, 0.1, betas, decay)  # type: ignore[arg-type]
    objective: Any = Objective("o", {"default": [parameter]}, lambda batch: {}, "loss")
    (optimizer,) = factory.build_optimizers(objective, OptimizerConfig(group, group, group, None))
    return parameter, optimizer


def take_steps(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, *gradients: list[float]) -> list[float]:
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    values: list[float] = parameter.tolist()
    return values


def test_lion_changes_every_element_by_the_learning_rate() -> None:
    assert take_steps(*make_optimizer("lion", (0.9, 0.99)), [5.0, -0.001]) == pytest.approx([0.9, -1.9])


def test_lion_mixes_with_one_beta_and_remembers_with_the_other() -> None:
    # after g = 5, 0: momentum 0.05, 0; then c = 0.9·0.05 - 0.1·0.4 > 0, though the gradient itself is negative
    assert take_steps(*make_optimizer("lion", (0.9, 0.99)), [5.0, 0.0], [-0.4, 0.0]) == pytest.approx([0.8, -2.0])


def test_sgd_accumulates_momentum() -> None:
    # steps 0.1·1 and 0.1·(0.5·1 + 1)
    assert take_steps(*make_optimizer("sgd", (0.5,)), [1.0, 0.0], [1.0, 0.0]) == pytest.approx([0.75, -2.0])


@pytest.mark.parametrize(("kind", "betas"), [("sgd", (0.9,)), ("lion", (0.9, 0.99)), ("adamw", (0.9, 0.99))])
def test_weight_decay_does_not_pass_through_the_momentum(kind: str, betas: tuple[float, ...]) -> None:
    # 0.1 · 0.5 of each, twice; the gradient is zero
    assert take_steps(*make_optimizer(kind, betas, 0.5), [0.0, 0.0], [0.0, 0.0]) == pytest.approx([0.95**2, -2 * 0.95**2])
