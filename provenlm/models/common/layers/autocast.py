"""A tensor in, the type that products with it are to be taken in out."""

import torch
from torch import Tensor


def working_type(states: Tensor) -> torch.dtype:
    """That of autocast where it is on, else that of `states`: for products that autocast does not reach by itself."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
