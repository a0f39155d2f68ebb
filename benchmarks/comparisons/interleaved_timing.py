"""Ways of doing the same work in; out, how long each takes, measured in turns so that a busy machine is busy for all of them."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from comparisons.subprocess_timer import Timing


@dataclass(frozen=True)
class TimingRow:
    """One way. `times`: how many times as long as the first way it takes, the median over rounds of its share in that round."""

    comparison: str
    implementation: str
    wall_ms: float
    cpu_ms: float
    wall_ratio: float
    cpu_ratio: float
    rounds: int


def compare_in_turns(comparison: str, implementations: Mapping[str, Callable[[], object]], rounds: int) -> list[TimingRow]:
    """Call every way once to warm it up, then once a round; medians. The first way is the one that others are held against."""
    wall: dict[str, list[float]] = {name: [] for name in implementations}
    cpu: dict[str, list[float]] = {name: [] for name in implementations}
    for number in range(rounds + 1):
        for name, function in implementations.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            result = function()
            timing = (
                result
                if isinstance(result, Timing)
                else Timing(0.0, time.perf_counter() - wall_start, time.process_time() - cpu_start)
            )
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
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(seconds, baseline_seconds, strict=True))


def print_table(rows: Sequence[TimingRow]) -> None:
    """Print the lines of one comparison as a table."""
    print(f"\n{rows[0].comparison} ({rows[0].rounds} rounds, medians)")
    print(f"  {'':34}{'wall ms':>10}{'CPU ms':>10}{'× wall':>9}{'× CPU':>9}")
    for row in rows:
        print(
            f"  {row.implementation:34}{row.wall_ms:10.1f}{row.cpu_ms:10.1f}{row.wall_ratio:9.2f}{row.cpu_ratio:9.2f}", flush=True
        )


def save_json(path: Path, rows: Sequence[TimingRow], metadata: Mapping[str, object]) -> None:
    """Write the table as JSON, with the machine it was measured on."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg(), **metadata}
    path.write_text(json.dumps({"machine": machine, "lines": [asdict(row) for row in rows]}, indent=2) + "\n", encoding="utf-8")
