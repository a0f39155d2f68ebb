"""A report read back: its files, its audits and everything they were made from, against each other. Silence, or what does not fit."""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from provenlm.core import config as parameters
from provenlm.core import hashing
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.reporting import verify
from stages import report
from stages import runner as stage


def main() -> None:
    """Exit 0 if everything fits, 1 with one line for each thing that does not."""
    parser = argparse.ArgumentParser(prog="python -m provenlm.cli.verify", description=__doc__)
    parser.add_argument("report", help="a name below `reports` in params.yaml")
    name = parser.parse_args().report
    paths = ProjectPaths(Path.cwd())
    try:
        mismatches = find_mismatches(
            stage.StageContext("report", "reports", name, paths, parameters.load_params(paths.params_yaml))
        )
    except ProvenlmError as error:
        sys.exit(f"verify {name}: {error}")
    for mismatch in mismatches:
        log_line(mismatch)
    log_line(f"verify {name}: {f'{len(mismatches)} things do not fit' if mismatches else 'everything fits'}")
    sys.exit(1 if mismatches else 0)


def find_mismatches(context: stage.StageContext) -> list[str]:
    """Everything about the report that does not fit, as sentences."""
    output = report.render_report(context)
    own_audit = report.load_source(context, context.subject, "report")
    sources = [*(source for source in output.audit_files if source.audit is not None), own_audit]
    dvc_md5s = dvc_outputs(context.paths.dvc_lock)
    mismatches = verify.file_mismatches(output.files, read_report_files(context.paths, context.subject))
    mismatches += verify.count_mismatches(own_audit, output.counts.metrics)
    for source in sources:
        mismatches += verify.audit_mismatches(
            source, lambda path: path_digest(context.paths.root, path), lambda key: config_value(context.params, key)
        )
        if source is not own_audit:  # the report itself is made anew above
            path = context.paths.audit_json(source.subject, source.stage).relative_to(context.paths.root).as_posix()
            mismatches += verify.dvc_lock_mismatch(source, dvc_md5s, lambda path: path_md5(context.paths.root / path), path)
        mismatches += verify.code_mismatch(source, lambda paths: files_digest(context.paths.root, paths))
    return mismatches + verify.lineage_mismatches(sources)


def read_report_files(paths: ProjectPaths, name: str) -> dict[str, bytes]:
    """The files of a report that are there, by their address below the folder of reports."""
    files = [*paths.report_files(name), *sorted(paths.plots_dir(name).glob("*")), *sorted(paths.cards_dir(name).glob("*"))]
    return {report.report_link(paths, path): path.read_bytes() for path in files if path.is_file()}


def path_digest(root: Path, path: str) -> str | None:
    return hashing.sha256_path(root / path) if (root / path).exists() else None


def dvc_outputs(lock: Path) -> dict[str, str]:
    """MD5 of every output that DVC recorded, by its path; nothing where DVC never ran."""
    stages = YAML(typ="safe", pure=True).load(lock)["stages"] if lock.exists() else {}
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}


def path_md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def files_digest(root: Path, paths: Any) -> str | None:
    files = [root / path for path in paths]
    return hashing.sha256_files(files, root) if all(file.is_file() for file in files) else None


def config_value(params: parameters.Params, key: str) -> Any:
    """The value of the dotted `key` in params.yaml; None if there is none now."""
    value: Any = params.tables
    for key_part in key.split("."):
        value = value.get(key_part) if isinstance(value, Mapping) else None
    return value


if __name__ == "__main__":
    main()
