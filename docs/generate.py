"""Fill the generated blocks of README and docs: `docs/generate.py [--check]`.

A block is `<!-- generated: NAME ARGUMENT… -->…<!-- end -->`; NAME is one of the functions in BLOCKS. Numbers come from the audits and
reports in reports/, from benchmarks/results/*.json, or from running a command. tests/test_docs.py fails when a block differs.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from provenlm.cli import main as cli  # noqa: E402
from provenlm.core.audit import Audit, read_audit  # noqa: E402
from provenlm.core.errors import ProvenlmError  # noqa: E402
from provenlm.reporting.evidence import split_metric_id  # noqa: E402
from provenlm.reporting.number_format import format_number, format_value  # noqa: E402

BLOCK = re.compile(r"(<!-- generated: (.+?) -->)(.*?)(<!-- end -->)", re.DOTALL)
FENCE = "```"


def pages() -> list[Path]:
    """List the Markdown files that may contain generated blocks."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def metric(metric_id: str) -> str:
    """Format the value of one metric, inline."""
    name, key = split_metric_id(metric_id)
    recorded = _audit(name).metrics[key]
    return format_value(recorded.value, recorded.unit)


def metrics(audit_name: str, *names: str) -> str:
    """Tabulate metrics of one audit with their descriptions."""
    recorded = _audit(audit_name).metrics
    rows = [(f"`{name}`", format_value(recorded[name].value, recorded[name].unit), recorded[name].description) for name in names]
    return _table(("metric", "value", "description"), rows)


def results(*recipes: str) -> str:
    """Tabulate the main results of recipes; every value links to its audit."""
    columns = (
        ("parameters", "validate", "params.total"),
        ("training tokens", "train", "tokens"),
        ("training time", "train", "seconds"),
        ("validation loss", "validate", "val.bits_per_byte"),
        ("bigram baseline", "validate", "val.bigram.bits_per_byte"),
    )
    rows = []
    for recipe in recipes:
        cells = []
        for _, stage, name in columns:
            recorded = _audit(f"{recipe}/{stage}").metrics.get(name)
            link = f"reports/audits/{recipe}/{stage}.json"
            cells.append(f"[{format_value(recorded.value, recorded.unit)}]({link})" if recorded else "–")
        rows.append((f"`{recipe}`", *cells))
    return _table(("recipe", *(title for title, *_ in columns)), rows)


def verdict(report: str) -> str:
    """Quote the verdict of a report with the number of checks by status."""
    summary = _summary(report)
    counts = ", ".join(
        f"{summary[f'checks.{key}']} {key.replace('_', ' ').upper()}" for key in STATUS_KEYS if summary[f"checks.{key}"]
    )
    return f"**{summary['status']}** ({counts} of {summary['checks.total']} checks)"


def checks(report: str, *metric_ids: str) -> str:
    """Tabulate checks of a report."""
    by_id = {check["id"]: check for check in _summary(report)["checks"]}
    rows = []
    for metric_id in metric_ids:
        check = by_id[metric_id]
        value = "–" if check["value"] is None else format_value(check["value"], check["unit"])
        rows.append(
            (
                f"**{check['status']}**",
                f"`{metric_id}`",
                f"[{value}](reports/{check['audit']})",
                f"`{check['expect']}`",
                check["description"],
            )
        )
    return _table(("status", "metric", "measured", "expected", "description"), rows)


def times(report: str) -> str:
    """List the wall time of every stage of a report, as `provenlm build` prints it."""
    lines = []
    for entry in _summary(report)["audits"]:
        subject, stage = Path(entry["audit"]).parent.relative_to("audits").as_posix(), Path(entry["audit"]).stem
        lines.append(f"{f'{stage}@{subject}':<28} ran {_audit(f'{subject}/{stage}').metrics['seconds'].value:>11.1f} s")
    return f"\n{FENCE}\n" + "\n".join(lines) + f"\n\n{report}: {_summary(report)['status']}\n{FENCE}\n"


def benchmark(name: str, *prefixes: str) -> str:
    """Tabulate rows of benchmarks/results/NAME.json.

    With `prefixes`, only rows whose names start with one of them.
    """
    result = _benchmark(name)
    rows = [
        (row["name"], f"{format_number(row['value'])} {row['unit']}".rstrip(), _ratio(row.get("ratio")))
        for row in result["rows"]
        if not prefixes or row["name"].startswith(prefixes)
    ]
    return _table(("measurement", "value", "ratio"), rows) + f"\nMeasured with `{result['command']}`.\n"


def growth() -> str:
    """Tabulate CPU time per record and peak memory of the corpus stages by corpus size."""
    values = _results("corpus")
    sizes = [name.rpartition("records at ")[2] for name in values if name.startswith("growth: records at ")]
    header = ["corpus"]
    for stage in ("filter", "dedupe", "tokenize"):
        header += [f"{stage}: CPU time per record", "peak memory"]
    rows = []
    for size in sizes:
        row = [f"{size}, {format_number(values[f'growth: records at {size}'])} records"]
        for stage in ("filter", "dedupe", "tokenize"):
            row.append(f"{format_number(values[f'growth: {stage}, CPU time per record at {size}'])} ms")
            row.append(f"{format_number(values[f'growth: {stage}, peak memory at {size}'])} MiB")
        rows.append(row)
    return _table(header, rows) + f"\nMeasured with `{_benchmark('corpus')['command']}`.\n"


def memory_per_record() -> str:
    """Compute by how much the peak memory of dedupe grows with each record, between the two largest corpora measured."""
    return f"{format_number(round(_dedupe_bytes_per_record()))} bytes"


def estimates() -> str:
    """Estimate where the next step of scaling pays, from measured times, memory and FLOP/s."""
    corpus, orchestration = _results("corpus"), _results("orchestration")
    train = _audit("docs_moe/train").metrics
    flops = train["mfu"].value * train["measured_peak_flops"].value
    night, tokens_per_param, large, memory = 8 * 3600, 20, 50e6, 24e9
    params = (night * flops / (6 * tokens_per_param)) ** 0.5
    days = 6 * tokens_per_param * large**2 / flops / 86400
    largest = max((name for name in corpus if name.startswith("growth: records at ")), key=lambda name: corpus[name])
    size = largest.rpartition("records at ")[2]
    record_ms = sum(corpus[f"growth: {stage}, CPU time per record at {size}"] for stage in ("filter", "dedupe", "tokenize"))
    by_count = {
        int(name.split()[2]): value for name, value in orchestration.items() if re.fullmatch(r"`dvc repro`, \d+ stages, .*", name)
    }
    low, high = min(by_count), max(by_count)
    dvc_ms = 1000 * (by_count[high] - by_count[low]) / (high - low)
    server = orchestration["build, all cached, its own server"] - orchestration["build, all cached, running server"]
    rows = [
        (
            "two cores, one night",
            f"up to {format_number(params / 1e6)} million active parameters",
            f"R = {flops:.2g} FLOP/s (MFU times peak of the default recipe); {tokens_per_param} tokens per parameter N take "
            f"{tokens_per_param} N × 6 N / R seconds",
        ),
        (
            "a GPU, or several processes (`train.distributed`)",
            f"more parameters: {large / 1e6:.0f} million would take {days:.0f} days",
            f"{6 * tokens_per_param} N² / R",
        ),
        (
            "`executor` of a corpus",
            f"{format_number(1000 * night / record_ms / 1e6)} million records per night and core",
            f"filter, dedupe and tokenize take {format_number(record_ms)} ms of CPU time per record",
        ),
        (
            "a machine with more memory",
            f"{format_number(memory / _dedupe_bytes_per_record() / 1e6)} million records in {memory / 1e9:.0f} GB",
            f"dedupe needs {memory_per_record()} more for each record",
        ),
        (
            "`--jobs 2`",
            "two subjects whose stages take longer",
            f"overhead of a stage: {orchestration['overhead of a stage']:.1f} s",
        ),
        ("a running server", "several builds in a row", f"each build starts {server:.1f} s faster"),
        (
            "fewer, larger stages",
            f"{2500 / dvc_ms:.0f} stages in one project",
            f"DVC needs {dvc_ms:.0f} ms per stage every time; 2.5 s are taken as the limit",
        ),
    ]
    return _table(("step", "worth it from", "estimate"), rows)


def _dedupe_bytes_per_record() -> float:
    values = _results("corpus")
    counts = sorted(
        (value, name.rpartition("records at ")[2]) for name, value in values.items() if name.startswith("growth: records at ")
    )
    (count, size), (larger_count, larger_size) = counts[-2:]
    peak, larger_peak = (values[f"growth: dedupe, peak memory at {key}"] for key in (size, larger_size))
    return (larger_peak - peak) * (1 << 20) / (larger_count - count)


def _benchmark(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _results(name: str) -> dict[str, float]:
    """Return the values of benchmarks/results/NAME.json by row name."""
    return {row["name"]: row["value"] for row in _benchmark(name)["rows"]}


def commands() -> str:
    """Tabulate all commands with their examples."""
    rows = [(f"`{c.example}`", c.summary) for group in cli.GROUPS.values() for c in group]
    return _table(("example", "what it does"), rows)


def help_text(command: str = "") -> str:
    """Show what `provenlm --help` prints, or tabulate the arguments of one command."""
    if not command:
        return f"\n{FENCE}\n{cli.format_help()}\n{FENCE}\n"
    parser = argparse.ArgumentParser(add_help=False)
    cli.COMMANDS[command].load().add_arguments(parser)
    rows = []
    for action in parser._actions:
        value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
        if action.choices and not action.metavar:
            value = "{" + ",".join(map(str, action.choices)) + "}"
        argument = ", ".join(action.option_strings) or str(value)
        text = " ".join(parser._get_formatter()._expand_help(action).split())
        rows.append((f"`{argument} {value}`" if action.option_strings and value else f"`{argument}`", text))
    return f"\n\n{cli.COMMANDS[command].summary[0].upper()}{cli.COMMANDS[command].summary[1:]}.\n" + _table(
        ("argument", "meaning"), rows
    )


def ci() -> str:
    """List the commands of the CI workflows, with the Python versions of their jobs."""
    lines = []
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for name, job in YAML(typ="safe", pure=True).load(path)["jobs"].items():
            matrix = job.get("strategy", {}).get("matrix", {})
            setup = [str(step["with"]["python-version"]) for step in job["steps"] if "python-version" in step.get("with", {})]
            variables = [re.fullmatch(r"\$\{\{ matrix\.(\S+) \}\}", version) for version in setup]
            versions = [v for version, var in zip(setup, variables, strict=True) for v in (matrix[var[1]] if var else [version])]
            commands = [f"`{line.strip()}`" for step in job["steps"] for line in step.get("run", "").splitlines()]
            lines.append(f"- {name} (Python {', '.join(map(str, versions))}): {', '.join(commands)}")
    return "\n\n" + "\n".join(lines) + "\n\n"


def layers() -> str:
    """List the layers of the library from the top, as test_architecture.py does."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    groups = [sorted(group) for group in reversed(ast.literal_eval(constants["LAYERS"]))]
    return "`" + " → ".join(group[0] if len(group) == 1 else f"{{{', '.join(group)}}}" for group in groups) + "`"


def error(*assignments: str) -> str:
    """Quote the message of `provenlm check` after edits of params.yaml.

    Edits are KEY=VALUE; KEY=delete removes a key.
    """
    yaml = YAML()
    params: Any = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        *parents, last = key.split(".")
        section = params
        for parent in parents:
            section = section[int(parent) if isinstance(section, list) else parent]
        if value == "delete":
            del section[last]
        else:
            section[last] = YAML(typ="safe", pure=True).load(value)
    buffer = io.StringIO()
    yaml.dump(params, buffer)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(buffer.getvalue(), encoding="utf-8")
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stderr(io.StringIO()) as message,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            cli.main(["check"])
    return f"\n{FENCE}\n{message.getvalue().strip()}\n{FENCE}\n"


def section(key: str) -> str:
    """Quote a section of params.yaml with its comments."""
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    start, end, depth = 0, len(lines), 0
    for part in key.split("."):
        indent = "  " * depth
        start = next(i for i in range(start, end) if re.match(rf"{indent}{re.escape(part)}:", lines[i]))
        end = next((i for i in range(start + 1, end) if re.match(rf" {{0,{2 * depth}}}[^ #]", lines[i])), end)
        depth += 1
    quoted = "\n".join(line[2 * (depth - 1) :] for line in lines[start:end]).rstrip()
    return f"\n{FENCE}yaml\n{quoted}\n{FENCE}\n"


def config(path: str) -> str:
    """Describe a configuration dataclass, given as MODULE.CLASS.

    The description is its docstring, and type and default of every setting.
    """
    module, _, name = path.rpartition(".")
    config_type = getattr(importlib.import_module(module), name)
    rows = [(f"`{key}`", f"`{kind}`", default) for key, kind, default in _settings(config_type)]
    return f"\n\n{inspect.getdoc(config_type)}\n" + _table(("setting", "type", "default, or purpose of a section"), rows)


def _settings(config_type: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield key, type and default of each dataclass field.

    Nested sections follow with dotted keys.
    """
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        if not field.init:
            continue
        key, hint = f"{prefix}{field.name}", hints[field.name]
        nested = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
        if field.default is not dataclasses.MISSING:
            value: Any = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = dataclasses.MISSING
        if value is dataclasses.MISSING:
            yield key, _type_name(hint), "required"
        elif dataclasses.is_dataclass(value) and not isinstance(value, type) and not _is_small(value):
            yield key, type(value).__name__, _summary_line(type(value))
            for inner_key, kind, default in _settings(type(value), f"{key}."):
                inner = value
                for part in inner_key.removeprefix(f"{key}.").split("."):
                    inner = getattr(inner, part, None)
                yield inner_key, kind, default if isinstance(inner, type(None)) and default != "null" else _default(inner)
            continue
        else:
            yield key, _type_name(hint), _default(value)
        for kind in nested if value is None else ():
            yield f"{key} (if set)", kind.__name__, _summary_line(kind)
            yield from _settings(kind, f"{key}.")


def _is_small(value: Any) -> bool:
    """Return whether a section is small enough to show all settings on a line.

    Its settings must be few and simple.
    """
    values = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return len(values) <= 4 and all(item is None or isinstance(item, (bool, int, float, str)) for item in values)


def _summary_line(config_type: type) -> str:
    return f"*{(inspect.getdoc(config_type) or '').splitlines()[0]}*"


def _type_name(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name).replace("NoneType", "null").replace("None", "null")


def _default(value: Any) -> str:
    if isinstance(value, Mapping):
        text = ", ".join(f"{key}: {_default(item)}" for key, item in value.items())
        return f"{{{text}}}" if text else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_default, value))}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _default(dataclasses.asdict(value))
    return json.dumps(value) if value is None or isinstance(value, (bool, str)) else str(value)


STATUS_KEYS = ("pass", "fail", "not_run", "estimated", "not_applicable")
BLOCKS: dict[str, Callable[..., str]] = {
    "metric": metric,
    "metrics": metrics,
    "results": results,
    "verdict": verdict,
    "checks": checks,
    "times": times,
    "benchmark": benchmark,
    "growth": growth,
    "memory_per_record": memory_per_record,
    "estimates": estimates,
    "commands": commands,
    "help": help_text,
    "error": error,
    "ci": ci,
    "layers": layers,
    "section": section,
    "config": config,
}


def generate(page: Path) -> str:
    """Return the text of a page with every generated block filled.

    Links to reports are relative to the page.
    """
    root = "../" * (len(page.relative_to(ROOT).parts) - 1)
    return BLOCK.sub(
        lambda match: match[1] + _render(match[2]).replace("](reports/", f"]({root}reports/") + match[4],
        page.read_text(encoding="utf-8"),
    )


def main() -> int:
    """Fill the blocks of all pages, or with --check only name the pages that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if a page differs")
    arguments = parser.parse_args()
    status = 0
    for page in pages():
        name = page.relative_to(ROOT).as_posix()
        try:
            text = generate(page)
        except (OSError, LookupError, ProvenlmError) as error:
            print(f"{name}: a source of its figures is missing: {error!r}")
            status = 1
            continue
        if text != page.read_text(encoding="utf-8"):
            print(f"{name}: {'differs' if arguments.check else 'updated'}")
            if arguments.check:
                status = 1
            else:
                page.write_text(text, encoding="utf-8")
    return status


def _render(call: str) -> str:
    name, *arguments = shlex.split(call)
    if name not in BLOCKS:
        raise ValueError(f"generated: must be one of {', '.join(BLOCKS)}, got {name!r}")
    return BLOCKS[name](*arguments)


def _audit(name: str) -> Audit:
    return read_audit(ROOT / "reports" / "audits" / f"{name}.json")


def _summary(report: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((ROOT / "reports" / f"{report}.json").read_text(encoding="utf-8"))
    return summary


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n\n" + "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n\n"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{format_number(float(f'{value:.3g}'))} ×"


def _run(command: list[str], folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **env}, encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
