"""A device in, the bytes that it holds now and held at most out, at points of a training that have names.

A GPU is asked by its allocator, the CPU by the kernel (the resident set of this process).
"""

import os
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from provenlm.core.audit import AuditTable, MetricRecorder


def memory_allocated(device: torch.device) -> int:
    """Bytes that are held on `device` now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return rss_bytes()


def max_memory_allocated(device: torch.device) -> int:
    """The most bytes that were held on `device` so far; MPS keeps no such count, so there it is what is held now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory_allocated(device) if device.type == "mps" else max_rss_bytes()


def memory_free(device: torch.device) -> int:
    """Bytes that could still be held on `device`: of the machine's memory, and of what a container may use of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [_meminfo_available(), _cgroup_free()]
    return min((limit for limit in limits if limit is not None), default=os.sysconf("SC_PHYS_PAGES") * resource.getpagesize())


def _meminfo_available() -> int | None:
    """By Linux; others do not say."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup_free() -> int | None:
    """By the control group, where there is one with a limit; files that it has read before are given up when memory is wanted."""
    cgroup = Path("/sys/fs/cgroup")
    try:
        reclaimable = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())["inactive_file"]
        return int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text()) + int(reclaimable)
    except (OSError, ValueError, KeyError):
        return None  # no such file, or `max`, which is no limit


def rss_bytes() -> int:
    """Bytes of this process that lie in memory now; where the kernel does not say (it does on Linux), the most so far."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else max_rss_bytes()


def max_rss_bytes() -> int:
    """The largest resident set of this process so far, in bytes: the kernel counts in KiB, that of macOS in bytes."""
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


@dataclass
class MemoryProfile:
    """Named points of a run, in order: (name, device, bytes held then, most bytes held up to then)."""

    device: torch.device
    points: list[tuple[str, str, int, int]] = field(default_factory=list)

    def mark(self, name: str) -> None:
        """Remember what is held here, by the CPU and by the device if that is another; a name counts the first time."""
        if name not in {point[0] for point in self.points}:
            for device in dict.fromkeys((torch.device("cpu"), self.device)):
                self.points.append((name, device.type, memory_allocated(device), max_memory_allocated(device)))

    def record_metrics(self, audit: MetricRecorder) -> None:
        """A figure for every device's peak, and all points as a table."""
        for device_type in dict.fromkeys(point[1] for point in self.points):
            peak_bytes = max(max(point[2:]) for point in self.points if point[1] == device_type)
            source = "the kernel" if device_type == "cpu" else "the allocator"
            audit.add_measurement(
                f"memory_peak.{device_type}",
                peak_bytes,
                "bytes",
                f"most held by the training's first process on {device_type}, by {source}",
            )
        columns = ("point", "device", "bytes", "peak bytes so far")
        audit.tables.append(AuditTable("memory", "What memory was held at named points", columns, list(self.points)))
