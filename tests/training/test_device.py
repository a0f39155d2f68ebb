"""Test that freed memory is retained, and which dtypes are emulated."""

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch
from forked import ForkedProcess

from provenlm.training.device import is_dtype_emulated, retain_freed_memory


def print_faults(strategy: str) -> None:
    """Print the page faults of filling 750 MB in pieces.

    A warm-up with the same sizes is not counted.
    """
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        sys.exit(77)
    if strategy == "keep":
        retain_freed_memory()

    def fill() -> None:
        for size in (40, 60, 50):  # above the largest size that glibc retains by default
            torch.ones(size << 18)

    for _ in range(8):
        fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        fill()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def faults(strategy: str) -> int:
    """Count page faults in a new process."""
    process = ForkedProcess(print_faults, strategy)
    output = process.communicate()[0]
    if process.returncode == 77:
        pytest.skip("this C library has no mallopt")
    assert process.returncode == 0, output
    return int(output)


def test_retained_memory_causes_fewer_page_faults() -> None:
    assert faults("keep") < faults("default") / 2


def test_dtypes_without_a_cpu_flag_are_emulated() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    if "flags" not in flags:
        pytest.skip("no x86 CPU flags on this machine")
    assert is_dtype_emulated(torch.device("cpu"), "bf16") == (not {"avx512bw", "avx512vl", "avx512dq"} <= {*flags})
    assert not is_dtype_emulated(torch.device("cpu"), "fp32")
    assert not is_dtype_emulated(torch.device("cuda"), "bf16")
