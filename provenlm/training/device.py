"""The wanted device's name in, torch's device out."""

import torch

from provenlm.core.errors import UserError


def device_of(wanted: str) -> torch.device:
    """The device that `wanted` names; auto takes cuda, then mps, then the CPU. UserError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [name for name, is_there in there.items() if is_there]
    if wanted == "auto":
        return torch.device(usable[0])
    if wanted not in usable:
        raise UserError(f"train.device: {wanted} is not there; on this machine: {', '.join(usable)}")
    return torch.device(wanted)
