"""Ways of doing the same work in; out, how long each takes, measured in turns so that a busy machine is busy for all of them."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from comparisons.subprocess_timer import Spent


@dataclass(frozen=True)
class Line:
    """One way. `times`: how many times as long as the first way it takes, the median over rounds of its share in that round."""

    comparison: str
    way: str
    wall_ms: float
    cpu_ms: float
    wall_times: float
    cpu_times: float
    rounds: int


def compare(comparison: str, ways: Mapping[str, Callable[[], object]], rounds: int) -> list[Line]:
    """Call every way once to warm it up, then once a round; medians. The first way is the one that others are held against."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin, used = time.perf_counter(), time.process_time()
            said = way()
            spent = said if isinstance(said, Spent) else Spent(0.0, time.perf_counter() - begin, time.process_time() - used)
            if number:
                wall[name].append(spent.wall)
                cpu[name].append(spent.cpu)
    first = next(iter(ways))
    return [
        Line(
            comparison,
            name,
            1e3 * statistics.median(wall[name]),
            1e3 * statistics.median(cpu[name]),
            times(wall[name], wall[first]),
            times(cpu[name], cpu[first]),
            rounds,
        )
        for name in ways
    ]


def times(ours: Sequence[float], first: Sequence[float]) -> float:
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(ours, first, strict=True))


def show(lines: Sequence[Line]) -> None:
    """Print the lines of one comparison as a table."""
    print(f"\n{lines[0].comparison} ({lines[0].rounds} rounds, medians)")
    print(f"  {'':34}{'wall ms':>10}{'CPU ms':>10}{'× wall':>9}{'× CPU':>9}")
    for line in lines:
        print(f"  {line.way:34}{line.wall_ms:10.1f}{line.cpu_ms:10.1f}{line.wall_times:9.2f}{line.cpu_times:9.2f}", flush=True)


def keep(path: Path, lines: Sequence[Line], facts: Mapping[str, object]) -> None:
    """Write the table as JSON, with the machine it was measured on."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg(), **facts}
    path.write_text(json.dumps({"machine": machine, "lines": [asdict(line) for line in lines]}, indent=2) + "\n", encoding="utf-8")
