"""Read how much memory a device or this process uses.

On a GPU the allocator is read; on a CPU the kernel's resident set of this process.
"""

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

import torch

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.memory import max_rss_bytes, rss_bytes


def memory_allocated(device: torch.device) -> int:
    """Return the bytes allocated on `device` now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return rss_bytes()


def max_memory_allocated(device: torch.device) -> int:
    """Return the peak bytes allocated on `device` so far.

    MPS has no peak counter; there the current bytes are returned.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory_allocated(device) if device.type == "mps" else max_rss_bytes()


def memory_free(device: torch.device) -> int:
    """Return the bytes that can still be allocated on `device`.

    On a CPU this is the smaller of the machine's available memory and the container's limit.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [_meminfo_available(), _cgroup_free()]
    return min((limit for limit in limits if limit is not None), default=os.sysconf("SC_PHYS_PAGES") * resource.getpagesize())


def _meminfo_available() -> int | None:
    """Read MemAvailable on Linux; None on other systems."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup_free() -> int | None:
    """Read the free bytes of the control group; None without a limit.

    Cached file pages count as free, because the kernel reclaims them.
    """
    cgroup = Path("/sys/fs/cgroup")
    try:
        reclaimable = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())["inactive_file"]
        return int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text()) + int(reclaimable)
    except (OSError, ValueError, KeyError):
        return None  # no such file, or `max`, which is no limit


@dataclass
class MemoryProfile:
    """Record the memory at named points of a run.

    Each point is (name, device, bytes now, peak bytes so far).
    """

    device: torch.device
    points: list[tuple[str, str, int, int]] = field(default_factory=list)

    def mark(self, name: str) -> None:
        """Record the memory of the CPU and of the device; repeated names are ignored."""
        if name not in {point[0] for point in self.points}:
            for device in dict.fromkeys((torch.device("cpu"), self.device)):
                self.points.append((name, device.type, memory_allocated(device), max_memory_allocated(device)))

    def record_metrics(self, audit: MetricRecorder) -> None:
        """Record the peak of every device as a metric, and all points as a table."""
        for device_type in dict.fromkeys(point[1] for point in self.points):
            peak_bytes = max(max(point[2:]) for point in self.points if point[1] == device_type)
            source = "the kernel" if device_type == "cpu" else "the allocator"
            description = f"Peak memory of the main training process on {device_type}, as reported by {source}"
            audit.add_measurement(f"peak_memory.{device_type}", peak_bytes, "bytes", description)
        columns = ("point", "device", "bytes", "peak bytes so far")
        audit.tables.append(AuditTable("memory", "Memory of the main training process at named points", columns, list(self.points)))
