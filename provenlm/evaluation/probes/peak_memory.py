"""Computations in, the most bytes that each held beyond what was held before it, by the allocator, out."""

from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile, record_function

MARK = "footprint"


def peaks(computations: Sequence[Callable[[], object]], device: torch.device) -> list[int]:
    """Bytes by computation; empty on a device whose allocator keeps no such count."""
    if device.type == "cuda":
        return [_on_cuda(each, device) for each in computations]
    return _on_cpu(computations) if device.type == "cpu" else []


def _on_cuda(computation: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    computation()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(computations: Sequence[Callable[[], object]]) -> list[int]:
    """The profiler is told of everything that torch's allocator of the CPU gives out and takes back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as session:
        for number, computation in enumerate(computations):
            with record_function(f"{MARK} {number}"):
                computation()
    assert session.profiler is not None and session.profiler.kineto_results is not None
    events = list(session.profiler.kineto_results.events())
    spans = {e.name(): (e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name().startswith(MARK)}
    moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return [_highest(moves, *spans[f"{MARK} {number}"]) for number in range(len(computations))]


def _highest(moves: Sequence[tuple[int, int]], begin: int, end: int) -> int:
    held = most = 0
    for when, size in moves:
        if begin <= when <= end:
            held += size
            most = max(most, held)
    return most
