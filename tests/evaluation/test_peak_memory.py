"""Test the peak memory of computations."""

import torch

from provenlm.evaluation.probes.peak_memory import peak_bytes

CPU = torch.device("cpu")


def allocate_twice(size):
    def compute():
        first = torch.empty(size, dtype=torch.uint8)
        del first
        return torch.empty(size // 2, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)

    return compute


def test_the_peak_is_memory_at_one_time_not_all_allocations():
    assert peak_bytes([allocate_twice(1 << 20)], CPU) == [(1 << 20) + (1 << 19)]


def test_each_computation_is_counted_for_itself():
    retained = []
    peaks = peak_bytes([lambda: retained.append(torch.empty(1 << 20, dtype=torch.uint8)), allocate_twice(1 << 12)], CPU)
    assert peaks == [1 << 20, (1 << 12) + (1 << 11)]


def test_a_device_whose_allocator_keeps_no_count_gives_none():
    assert peak_bytes([allocate_twice(8)], torch.device("meta")) == []
