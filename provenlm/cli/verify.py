"""Verify a report and print a line for each mismatch.

Its files, audits, inputs, code and settings are compared.
"""

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from provenlm.core import hashing
from provenlm.core.config import Params, load_params
from provenlm.core.errors import DataError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.reporting import verify
from stages import report
from stages.runner import StageContext


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("report", help="name of an entry of `reports` in params.yaml")


def main(args: argparse.Namespace) -> int:
    """Print one line for each mismatch; return 0 if there is none, otherwise 1.

    Raises DataError if files are missing.
    """
    paths = ProjectPaths(Path.cwd())
    context = StageContext("report", "reports", args.report, paths, load_params(paths.params_yaml))
    if missing := find_missing(context):
        raise DataError(
            f"{args.report}: {len(missing)} files or folders are missing, such as {missing[0]}; "
            f"download them with `dvc pull` or create them with `provenlm build {args.report}`"
        )
    mismatches = find_mismatches(context)
    for mismatch in mismatches:
        log_line(mismatch)
    log_line(f"verify {args.report}: {f'{len(mismatches)} mismatches' if mismatches else 'no mismatch'}")
    return 1 if mismatches else 0


def find_missing(context: StageContext) -> list[str]:
    """List inputs, outputs and files of a report that do not exist.

    They are absent after a clone without `dvc pull`, for example.
    """
    paths = context.paths
    audit_files = [*report.load_audit_files(context), report.load_audit_file(context, context.subject, "report")]
    recorded = [
        paths.root / path
        for file in audit_files
        if file.audit is not None
        for role in ("inputs", "outputs")
        for path, _ in file.audit.provenance[role]
    ]
    expected = [paths.audit_json(context.subject, "report"), *paths.report_files(context.subject), *recorded]
    return list(dict.fromkeys(path.relative_to(paths.root).as_posix() for path in expected if not path.exists()))


def find_mismatches(context: StageContext) -> list[str]:
    """List every mismatch of a report as one sentence each."""
    output = report.render_current_report(context)
    own_audit = report.load_audit_file(context, context.subject, "report")
    audit_files = [*(file for file in output.audit_files if file.audit is not None), own_audit]
    dvc_md5s = dvc_outputs(context.paths.dvc_lock)
    mismatches = verify.file_mismatches(output.files, read_report_files(context.paths, context.subject))
    mismatches += verify.count_mismatches(own_audit, output.counts.metrics)
    for file in audit_files:
        mismatches += verify.audit_mismatches(
            file, lambda path: path_digest(context.paths.root, path), lambda key: config_value(context.params, key)
        )
        if file is not own_audit:  # the report itself was rendered again above
            path = context.paths.audit_json(file.subject, file.stage).relative_to(context.paths.root).as_posix()
            mismatches += verify.dvc_lock_mismatch(file, dvc_md5s, lambda path: path_md5(context.paths.root / path), path)
        mismatches += verify.code_mismatch(file, lambda paths: files_digest(context.paths.root, paths))
    return mismatches + verify.lineage_mismatches(audit_files)


def read_report_files(paths: ProjectPaths, name: str) -> dict[str, bytes]:
    """Read the existing files of a report, by path relative to the reports folder."""
    files = [*paths.report_files(name), *sorted(paths.plots_dir(name).glob("*")), *sorted(paths.cards_dir(name).glob("*"))]
    return {report.report_link(paths, path): path.read_bytes() for path in files if path.is_file()}


def path_digest(root: Path, path: str) -> str | None:
    """Hash a file or folder of the project; None if it does not exist."""
    return hashing.sha256_path(root / path) if (root / path).exists() else None


def dvc_outputs(lock: Path) -> dict[str, str]:
    """Return the MD5 of every output in dvc.lock by its path; empty without dvc.lock."""
    stages = YAML(typ="safe", pure=True).load(lock)["stages"] if lock.exists() else {}
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}


def path_md5(path: Path) -> str | None:
    """Return the MD5 of a file, as DVC computes it; None if it does not exist."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def files_digest(root: Path, paths: Any) -> str | None:
    """Hash source files with their names; None if one does not exist."""
    files = [root / path for path in paths]
    return hashing.sha256_files(files, root) if all(file.is_file() for file in files) else None


def config_value(params: Params, key: str) -> Any:
    """Return the value of the dotted `key` in params.yaml; None if it does not exist."""
    value: Any = params.tables
    for key_part in key.split("."):
        value = value.get(key_part) if isinstance(value, Mapping) else None
    return value
