"""Limit the memory and CPU time of this process."""

import errno
import math
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.memory import max_rss_bytes

OOM_TEXTS = ("can't allocate memory", "out of memory")  # the CPU allocator of torch raises a plain RuntimeError


@dataclass(frozen=True)
class TaskLimits:
    """Configure what one task may use.

    `memory_bytes` limits what a worker allocates after its start: its address space, or on a GPU its part of the device's memory.
    """

    wall_seconds: float = 300.0
    cpu_seconds: float | None = None  # None: no limit but the wall clock's
    memory_bytes: int | None = 10 * 10**9
    device: str = "cpu"  # or cuda

    def __post_init__(self) -> None:
        for name in ("wall_seconds", "cpu_seconds", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: must be > 0, got {value}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device: must be cpu or cuda, got {self.device!r}")


def apply_limits(limits: TaskLimits) -> list[str]:
    """Limit this process and return the names of limits without effect here.

    CUDA reserves far more addresses than memory, so that there the allocator is limited instead of the address space.
    """
    unenforced = []
    if limits.cpu_seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        set_soft_limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + limits.cpu_seconds))
    if limits.memory_bytes is not None and limits.device == "cuda":
        limit_cuda_memory(limits.memory_bytes)
    elif limits.memory_bytes is not None:
        address_space = address_space_bytes()
        if sys.platform != "linux" or address_space is None:
            unenforced.append("memory_bytes")
        else:
            set_soft_limit(resource.RLIMIT_AS, address_space + limits.memory_bytes)
    return unenforced


def set_soft_limit(kind: int, value: int) -> None:
    """Lower the soft limit of a resource; a smaller hard limit stays."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def lift_memory_limit() -> None:
    """Set the soft limit of the address space to the hard one.

    A worker can then report that it ran out of memory.
    """
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def limit_cuda_memory(memory_bytes: int) -> None:
    """Limit this process's part of the memory of the current GPU.

    Its peak is measured from then on.
    """
    import torch

    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total))
    torch.cuda.reset_peak_memory_stats()


def address_space_bytes() -> int | None:
    """Return the size of this process's address space; None without /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out.

    It may be Python's, numpy's, torch's on CPU or GPU, or the kernel's.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OOM_TEXTS)


def peak_memory() -> tuple[int, int | None]:
    """Return the peak resident bytes of this process, and those on its GPU.

    The latter are None if it used no GPU.
    """
    torch = sys.modules.get("torch")
    uses_cuda = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return max_rss_bytes(), int(torch.cuda.max_memory_reserved()) if torch is not None and uses_cuda else None


def process_usage(pid: int) -> tuple[float, int] | None:
    """Return CPU seconds and peak resident bytes of a running process.

    None without /proc, or after its end.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return (cpu_seconds, int(peaks[0]) * 1024) if peaks else None
