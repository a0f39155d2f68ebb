"""Measure the peak memory of computations by torch's allocator."""

from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile, record_function

EVENT_PREFIX = "peak_memory"


def peak_bytes(computations: Sequence[Callable[[], object]], device: torch.device) -> list[int]:
    """Return the peak bytes of each computation beyond the memory before it.

    The list is empty on a device whose allocator has no such count.
    """
    if device.type == "cuda":
        return [_peak_on_cuda(computation, device) for computation in computations]
    return _peaks_on_cpu(computations) if device.type == "cpu" else []


def _peak_on_cuda(computation: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    baseline = torch.cuda.memory_allocated(device)
    computation()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - baseline


def _peaks_on_cpu(computations: Sequence[Callable[[], object]]) -> list[int]:
    """Sum the allocations and releases that the profiler records."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as session:
        for index, computation in enumerate(computations):
            with record_function(f"{EVENT_PREFIX} {index}"):
                computation()
    assert session.profiler is not None and session.profiler.kineto_results is not None
    events = list(session.profiler.kineto_results.events())
    spans = {
        event.name(): (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.name().startswith(EVENT_PREFIX)
    }
    allocations = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return [_peak_in_span(allocations, *spans[f"{EVENT_PREFIX} {index}"]) for index in range(len(computations))]


def _peak_in_span(allocations: Sequence[tuple[int, int]], begin: int, end: int) -> int:
    current = peak = 0
    for time_ns, size in allocations:
        if begin <= time_ns <= end:
            current += size
            peak = max(peak, current)
    return peak
