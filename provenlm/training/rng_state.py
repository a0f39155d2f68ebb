"""Save, restore and seed every random generator that training uses."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def get_rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return torch's generator states as tensors and Python's and NumPy's as JSON."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()  # this process's device only
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
    }


def set_rng_state(tensors: dict[str, Tensor], host_state: dict[str, Any]) -> None:
    """Restore the states that `get_rng_state` returned."""
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])
    version, words, gauss = host_state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = host_state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))


def seed_all(seed: int) -> None:
    """Seed every generator with `seed`."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
