"""Find the type in which to compute a product under autocast."""

import torch
from torch import Tensor


def autocast_dtype(states: Tensor) -> torch.dtype:
    """Return autocast's dtype where it is on, else the dtype of `states`.

    For custom autograd functions, which autocast does not cast.
    """
    device_type = states.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else states.dtype
