"""The wanted device's name in, torch's device out; and how this process keeps memory."""

import ctypes

import torch

from provenlm.core.errors import ProvenlmError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3), malloc.h


def resolve_device(device_name: str) -> torch.device:
    """The device that `wanted` names; auto takes cuda, then mps, then the CPU. ProvenlmError if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [name for name, is_available in available.items() if is_available]
    if device_name == "auto":
        return torch.device(usable[0])
    if device_name not in usable:
        raise ProvenlmError(f"train.device: {device_name} is not there; on this machine: {', '.join(usable)}")
    return torch.device(device_name)


def is_dtype_emulated(device: torch.device, precision: str) -> bool:
    """Whether `device` has no products of `precision`, so that torch makes them up in software: ten to seventy times slower than fp32."""
    if device.type != "cpu" or precision == "fp32":
        return False
    support_checks = {"bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported, "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported}
    return not support_checks[precision]()


def retain_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step, in this process, from here on.

    Else it gives each large tensor back to the kernel, which has to clear every page anew when the next one is asked for. Only glibc
    can be told (mallopt(3)); elsewhere nothing changes.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
