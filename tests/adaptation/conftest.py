"""Build each tiny model once."""

import pytest
from torch import nn

from models import NAMES, tiny_model


@pytest.fixture(scope="session")
def models() -> dict[str, nn.Module]:
    return {name: tiny_model(name) for name in NAMES}


@pytest.fixture(params=NAMES)
def model(request, models) -> nn.Module:
    """Return a model that every test must give back unchanged."""
    return models[request.param]
