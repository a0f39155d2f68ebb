"""Memory that a step frees is there for the next one without a visit to the kernel; which products a processor only makes up."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from provenlm.training.device import is_dtype_emulated

FAULTS = """
import ctypes, resource, sys, torch
from provenlm.training.device import keep_memory
if not hasattr(ctypes.CDLL(None), "mallopt"):
    sys.exit(77)
if sys.argv[1] == "keep":
    keep_memory()
def fill():
    for size in (40, 60, 50):  # above what glibc ever keeps by itself
        torch.ones(size << 18)
for _ in range(8):
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    """How often the kernel had to hand out pages while 750 MB were filled in pieces, after these sizes were seen before."""
    done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this C library has no mallopt, so there is nothing to keep")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_is_kept_is_not_cleared_again() -> None:
    assert faults("keep") < faults("as it comes") / 2


def test_a_processor_makes_up_the_products_that_its_flags_do_not_name() -> None:
    known = Path("/proc/cpuinfo")
    flags = known.read_text().split() if known.exists() else []
    if "flags" not in flags:
        pytest.skip("no flags of an x86 processor are told here")
    assert is_dtype_emulated(torch.device("cpu"), "bf16") == (not {"avx512bw", "avx512vl", "avx512dq"} <= {*flags})
    assert not is_dtype_emulated(torch.device("cpu"), "fp32")
    assert not is_dtype_emulated(torch.device("cuda"), "bf16")
