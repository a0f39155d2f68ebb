"""Run a stage from the command line and write its audit.

The audit includes the time and memory that the stage took.
"""

import argparse
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from provenlm.core import hashing
from provenlm.core.audit import Audit, MetricRecorder, write_audit
from provenlm.core.config import Params, load_params, resolve_settings
from provenlm.core.errors import DataError, ProvenlmError
from provenlm.core.executors import local
from provenlm.core.executors.base import RecordSource
from provenlm.core.memory import max_rss_bytes
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line

ConfigT = TypeVar("ConfigT")
VERSIONED_PACKAGES = [
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "requests",
    "beautifulsoup4",
    "lxml",
    "sentencepiece",
    "fastokens",
    "transformers",
    "safetensors",
    "matplotlib",
    "numba",
    "py3langid",
]


class SignalFlag:
    """Become true after SIGTERM or SIGINT. A second SIGTERM exits at once."""

    def __init__(self) -> None:
        self.signum = 0
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGTERM:
            os._exit(128 + signum)
        self.signum = self.signum or signum

    def __bool__(self) -> bool:
        return self.signum != 0


@dataclass
class StageContext:
    """Hold one run of one stage on one subject (a corpus, a recipe or a report)."""

    stage: str
    table: str
    subject: str
    paths: ProjectPaths
    params: Params
    recorder: MetricRecorder = field(default_factory=MetricRecorder)
    provenance: dict[str, Any] = field(default_factory=dict)  # added to the audit: device, seed, threads, …
    inputs: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    config_sections: dict[str, Any] = field(default_factory=dict)
    settings: list[tuple[str, str, Any, bool]] = field(
        default_factory=list
    )  # section, dotted key, value, whether it is the default

    @property
    def entry(self) -> Any:
        """Return the subject's entry in params.yaml."""
        return self.params.entry(self.table, self.subject)

    def parse_section(self, section: str, config_type: type[ConfigT]) -> ConfigT:
        """Parse a section of the subject's entry and add it to the audit's provenance.

        Raises ConfigError.
        """
        self.config_sections[f"{self.table}.{self.subject}.{section}"] = self.entry[section]
        config = self.params.parse_section(self.table, self.subject, section, config_type)
        self.record_settings(section, config)
        return config

    def record_settings(self, section: str, config: object, prefix: str = "") -> None:
        """Add the resolved settings of a parsed section to the audit.

        Defaults are marked.

        With `prefix`, `config` is the parsed form of that key of the section and replaces its raw settings.
        """
        if prefix:
            raw = [setting for setting in self.settings if setting[0] == section and f"{setting[1]}.".startswith(f"{prefix}.")]
            self.settings = [setting for setting in self.settings if setting not in raw]
        settings = [
            (f"{prefix}.{key}" if prefix else key, value, is_default) for key, value, is_default in resolve_settings(config)
        ]
        self.settings += [(section, *setting) for setting in settings]

    def open_records(self, folder: Path) -> RecordSource:
        """Open the records of `folder` with the executor of the corpus."""
        name = self.entry.get("executor")
        return local.make_executor(folder, None if name is None else str(name))

    def declare_input(self, path: Path) -> Path:
        """Add the digest of an input to the audit.

        Raises DataError if the input does not exist.
        """
        if not path.exists():
            raise DataError(
                f"{path.relative_to(self.paths.root).as_posix()}: does not exist; `dvc repro {self.stage}@{self.subject}` creates it first, `dvc pull` downloads it"
            )
        self.inputs.append(path)
        return path

    def declare_output(self, path: Path) -> Path:
        """Add the digest of an output to the audit."""
        self.outputs.append(path)
        return path


def main(stage: str, table: str, run_stage: Callable[[StageContext], None], doc: str | None) -> None:
    """Run a stage for the subject on the command line and write its audit.

    Exit with 1 and one line on a ProvenlmError.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=doc)
    parser.add_argument("subject", help=f"name of an entry of `{table}` in params.yaml")
    subject = parser.parse_args().subject
    paths = ProjectPaths(Path.cwd())
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        context = StageContext(stage, table, subject, paths, load_params(paths.params_yaml))
        context.params.entry(table, subject)  # reports an unknown name before any work starts
        run_stage(context)
    except ProvenlmError as error:
        sys.exit(f"{stage}@{subject}: {error}")
    seconds = time.perf_counter() - clock
    usage = resource.getrusage(resource.RUSAGE_SELF)
    context.recorder.add_measurement("seconds", round(seconds, 3), "s", "Wall time of the stage, without imports")
    context.recorder.add_measurement(
        "cpu_seconds", round(usage.ru_utime + usage.ru_stime, 3), "s", "CPU time of the stage's process, reported by the kernel"
    )
    context.recorder.add_measurement(
        "peak_memory", max_rss_bytes(), "bytes", "Peak resident set size of the stage's process, reported by the kernel"
    )
    audit = Audit(
        subject,
        stage,
        context.recorder.metrics,
        context.recorder.series,
        context.recorder.tables,
        collect_provenance(context, started),
        context.recorder.checks,
        context.recorder.not_applicable,
        context.settings,
    )
    write_audit(paths.audit_json(subject, stage), audit)
    log_line(f"{stage}@{subject}: {len(audit.metrics)} metrics in {seconds:.1f} s")


def collect_provenance(context: StageContext, started: datetime) -> dict[str, Any]:
    """Collect what is needed to repeat a run.

    That is the command, params, digests of inputs, outputs and code, package versions, machine and start time.
    """
    root = context.paths.root.resolve()
    code = imported_files(root)
    return {
        "command": f"python -m stages.{context.stage} {context.subject}",
        "params": context.config_sections,
        "params_digest": hashing.sha256_json(context.config_sections),
        "inputs": [[path.relative_to(context.paths.root).as_posix(), hashing.sha256_path(path)] for path in context.inputs],
        "outputs": [[path.relative_to(context.paths.root).as_posix(), hashing.sha256_path(path)] for path in context.outputs],
        "code": [path.relative_to(root).as_posix() for path in code],
        "code_digest": hashing.sha256_files(code, root),
        **git_state(root),
        **context.provenance,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "started": started.isoformat(timespec="seconds"),
    }


def imported_files(root: Path) -> list[Path]:
    """List the files of the project below `root` that this process has imported."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("provenlm", "stages", "__main__")]
    paths = {Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))}
    return sorted(path for path in paths if path.is_relative_to(root) and path.relative_to(root).parts[0] in ("provenlm", "stages"))


def git_state(root: Path) -> dict[str, Any]:
    """Return the commit of `root` and whether tracked files differ from it.

    The commit is "" if `root` is in no repository.

    Changes of reports/ and dvc.lock do not count, because every stage run writes them.
    """

    def git(*args: str) -> str:
        result = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else ""

    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports", ":!dvc.lock")),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the imported packages that can change a metric."""
    import_names = {"beautifulsoup4": "bs4"}
    return {name: metadata.version(name) for name in VERSIONED_PACKAGES if import_names.get(name, name) in sys.modules}
