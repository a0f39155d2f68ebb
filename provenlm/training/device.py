"""Resolve the device of a config, and tune how the process keeps memory."""

import ctypes

import torch

from provenlm.core.errors import ConfigError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3), from malloc.h


def resolve_device(device_name: str) -> torch.device:
    """Return the torch device of a name; auto prefers cuda, then mps, then cpu.

    Raises ConfigError if the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [name for name, is_available in available.items() if is_available]
    if device_name == "auto":
        return torch.device(usable[0])
    if device_name not in usable:
        raise ConfigError(f"train.device must be one of {', '.join(usable)} on this machine, got {device_name}")
    return torch.device(device_name)


def is_dtype_emulated(device: torch.device, precision: str) -> bool:
    """Return whether `device` emulates matrix products of `precision` in software.

    Emulation is 10 to 70 times slower than fp32.
    """
    if device.type != "cpu" or precision == "fp32":
        return False
    support_checks = {"bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported, "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported}
    return not support_checks[precision]()


def retain_freed_memory() -> None:
    """Let the C library keep the memory that a step frees for the next step.

    By default large tensors return to the kernel, which clears every page again on the next allocation. Only glibc has this setting
    (mallopt(3)); elsewhere nothing changes.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
