"""A tensor in, the type that products with it are to be taken in out."""

import torch
from torch import Tensor


def autocast_dtype(states: Tensor) -> torch.dtype:
    """That of autocast where it is on, else that of `states`: for products that autocast does not reach by itself."""
    device_type = states.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else states.dtype
