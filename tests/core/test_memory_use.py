"""Test the peak memory of a process against memory that it and its parent use."""

import subprocess
import sys

from provenlm.core.memory import max_rss_bytes, rss_bytes

MEBIBYTE = 1 << 20
PRINT_PEAK = "from provenlm.core.memory import max_rss_bytes; print(max_rss_bytes())"


def test_the_peak_holds_freed_memory_and_leaves_out_the_parents():
    block = bytearray(400 * MEBIBYTE)
    block[::4096] = b"x" * len(block[::4096])
    assert max_rss_bytes() >= rss_bytes() >= 400 * MEBIBYTE
    child = subprocess.run([sys.executable, "-c", PRINT_PEAK], capture_output=True, text=True, check=True)
    assert int(child.stdout) < 200 * MEBIBYTE
    del block
    assert max_rss_bytes() >= 400 * MEBIBYTE
