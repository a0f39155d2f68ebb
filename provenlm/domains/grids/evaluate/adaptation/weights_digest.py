"""Compute a digest of the weights of a model."""

import hashlib

import torch
from torch import nn


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all tensors that `model` would save.

    It covers their names, types, shapes and bytes.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
