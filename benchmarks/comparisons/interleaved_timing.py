"""Time implementations of the same work in turns, so that load affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from comparisons.results import ResultRow
from comparisons.subprocess_timer import Timing


@dataclass(frozen=True)
class TimingRow:
    """Hold the medians of an implementation.

    Ratios are medians of the ratios to the first implementation within a round.
    """

    comparison: str
    implementation: str
    wall_ms: float
    cpu_ms: float
    wall_ratio: float
    cpu_ratio: float
    rounds: int

    def result_rows(self) -> list[ResultRow]:
        """Return wall time and CPU time as rows of a result file."""
        name = f"{self.comparison}: {self.implementation}"
        return [
            ResultRow(name, self.wall_ms, "ms", self.wall_ratio),
            ResultRow(f"{name}, CPU", self.cpu_ms, "CPU ms", self.cpu_ratio),
        ]


def compare_in_turns(comparison: str, implementations: Mapping[str, Callable[[], object]], rounds: int) -> list[TimingRow]:
    """Call every implementation to warm up and then in each round; return medians.

    The first implementation is the baseline of the ratios.
    """
    wall: dict[str, list[float]] = {name: [] for name in implementations}
    cpu: dict[str, list[float]] = {name: [] for name in implementations}
    for number in range(rounds + 1):
        for name, function in implementations.items():
            timing = _time_call(function)
            if number:
                wall[name].append(timing.wall)
                cpu[name].append(timing.cpu)
    baseline = next(iter(implementations))
    return [
        TimingRow(
            comparison,
            name,
            1e3 * statistics.median(wall[name]),
            1e3 * statistics.median(cpu[name]),
            median_ratio(wall[name], wall[baseline]),
            median_ratio(cpu[name], cpu[baseline]),
            rounds,
        )
        for name in implementations
    ]


def median_ratio(seconds: Sequence[float], baseline_seconds: Sequence[float]) -> float:
    """Return the median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(seconds, baseline_seconds, strict=True))


def print_table(rows: Sequence[TimingRow], details: str = "") -> None:
    """Print the rows of one comparison as a table, with details in its title."""
    print(f"\n{rows[0].comparison}{f' ({details})' if details else ''}, medians of {rows[0].rounds} rounds")
    print(f"  {'':34}{'wall ms':>10}{'CPU ms':>10}{'× wall':>9}{'× CPU':>9}")
    for row in rows:
        print(
            f"  {row.implementation:34}{row.wall_ms:10.1f}{row.cpu_ms:10.1f}{row.wall_ratio:9.2f}{row.cpu_ratio:9.2f}", flush=True
        )


def _time_call(function: Callable[[], object]) -> Timing:
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    result = function()
    if isinstance(result, Timing):  # measured in another process
        return result
    return Timing(0.0, time.perf_counter() - wall_start, time.process_time() - cpu_start)
