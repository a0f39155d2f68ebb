"""The state of every random generator that training can reach, taken and given back."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def get_rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(torch's states as tensors, python's and numpy's as JSON)."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()  # of this process's device; others may be another process's
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
    }


def set_rng_state(tensors: dict[str, Tensor], host_state: dict[str, Any]) -> None:
    """The reverse of `take`."""
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
    """Start every generator from `seed`."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
