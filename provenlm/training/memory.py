"""A device in, the bytes that it holds now and held at most out, at points of a training that have names.

A GPU is asked by its allocator, the CPU by the kernel (the resident set of this process).
"""

import os
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from provenlm.core.audit import Recorder, Table


def held(device: torch.device) -> int:
    """Bytes that are held on `device` now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return resident()


def peak(device: torch.device) -> int:
    """The most bytes that were held on `device` so far; MPS keeps no such count, so there it is what is held now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return held(device) if device.type == "mps" else most_resident()


def free(device: torch.device) -> int:
    """Bytes that could still be held on `device`: of the machine's memory, and of what a container may use of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [_available(), _left_to_container()]
    return min((each for each in known if each is not None), default=os.sysconf("SC_PHYS_PAGES") * resource.getpagesize())


def _available() -> int | None:
    """By Linux; others do not say."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_to_container() -> int | None:
    """By the control group, where there is one with a limit; files that it has read before are given up when memory is wanted."""
    group = Path("/sys/fs/cgroup")
    try:
        given_up = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + int(given_up)
    except (OSError, ValueError, KeyError):
        return None  # no such file, or `max`, which is no limit


def resident() -> int:
    """Bytes of this process that lie in memory now; where the kernel does not say (it does on Linux), the most so far."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else most_resident()


def most_resident() -> int:
    """The largest resident set of this process so far, in bytes: the kernel counts in KiB, that of macOS in bytes."""
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


@dataclass
class Profile:
    """Named points of a run, in order: (name, device, bytes held then, most bytes held up to then)."""

    device: torch.device
    points: list[tuple[str, str, int, int]] = field(default_factory=list)

    def at(self, name: str) -> None:
        """Remember what is held here, by the CPU and by the device if that is another; a name counts the first time."""
        if name not in {point[0] for point in self.points}:
            for device in dict.fromkeys((torch.device("cpu"), self.device)):
                self.points.append((name, device.type, held(device), peak(device)))

    def record(self, audit: Recorder) -> None:
        """A figure for every device's peak, and all points as a table."""
        for kind in dict.fromkeys(point[1] for point in self.points):
            most = max(max(point[2:]) for point in self.points if point[1] == kind)
            by = "the kernel" if kind == "cpu" else "the allocator"
            audit.measured(f"memory_peak.{kind}", most, "bytes", f"most held by the training's first process on {kind}, by {by}")
        columns = ("point", "device", "bytes", "peak bytes so far")
        audit.tables.append(Table("memory", "What memory was held at named points", columns, list(self.points)))
