"""Read the resident memory of this process, in bytes."""

import resource
import sys
from pathlib import Path


def rss_bytes() -> int:
    """Return the resident set size of this process; without /proc, its peak."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else max_rss_bytes()


def max_rss_bytes() -> int:
    """Return the peak resident set size of this process.

    On Linux this is VmHWM of /proc/self/status, because getrusage also counts the process that started this one (its memory before
    `exec`). Elsewhere it is `ru_maxrss`, which macOS reports in bytes and other systems in KiB.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peaks = [line.split()[1] for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return int(peaks[0]) * 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024
