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
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout
from provenlm.core.progress import say
from provenlm.reporting import verify
from stages import report
from stages import runner as stage


def main() -> None:
    """Exit 0 if everything fits, 1 with one line for each thing that does not."""
    parser = argparse.ArgumentParser(prog="python -m provenlm.cli.verify", description=__doc__)
    parser.add_argument("report", help="a name below `reports` in params.yaml")
    name = parser.parse_args().report
    layout = Layout(Path.cwd())
    try:
        faults = faults_of(stage.Run("report", "reports", name, layout, parameters.load(layout.params)))
    except UserError as error:
        sys.exit(f"verify {name}: {error}")
    for fault in faults:
        say(fault)
    say(f"verify {name}: {f'{len(faults)} things do not fit' if faults else 'everything fits'}")
    sys.exit(1 if faults else 0)


def faults_of(run: stage.Run) -> list[str]:
    """Everything about the report that does not fit, as sentences."""
    rendered = report.rendered(run)
    own = report.source(run, run.subject, "report")
    sources = [*(source for source in rendered.sources if source.audit is not None), own]
    recorded = outputs(run.layout.recorded)
    found = verify.differences(rendered.files, on_disk(run.layout, run.subject))
    found += verify.counts_faults(own, rendered.counts.figures)
    for source in sources:
        found += verify.audit_faults(source, lambda path: digest_of(run.layout.root, path), lambda key: section(run.params, key))
        if source is not own:  # the report itself is made anew above
            path = run.layout.audit(source.subject, source.stage).relative_to(run.layout.root).as_posix()
            found += verify.record_fault(source, recorded, lambda path: md5_of(run.layout.root / path), path)
        found += verify.code_fault(source, lambda paths: code_digest(run.layout.root, paths))
    return found + verify.chain_faults(sources)


def on_disk(layout: Layout, name: str) -> dict[str, bytes]:
    """The files of a report that are there, by their address below the folder of reports."""
    paths = [*layout.pages(name), *sorted(layout.plots(name).glob("*")), *sorted(layout.cards(name).glob("*"))]
    return {report.address(layout, path): path.read_bytes() for path in paths if path.is_file()}


def digest_of(root: Path, path: str) -> str | None:
    return hashing.of_path(root / path) if (root / path).exists() else None


def outputs(lock: Path) -> dict[str, str]:
    """MD5 of every output that DVC recorded, by its path; nothing where DVC never ran."""
    stages = YAML(typ="safe", pure=True).load(lock)["stages"] if lock.exists() else {}
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}


def md5_of(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def code_digest(root: Path, paths: Any) -> str | None:
    files = [root / path for path in paths]
    return hashing.of_files(files, root) if all(file.is_file() for file in files) else None


def section(params: parameters.Params, key: str) -> Any:
    """The value of the dotted `key` in params.yaml; None if there is none now."""
    value: Any = params.tables
    for word in key.split("."):
        value = value.get(word) if isinstance(value, Mapping) else None
    return value


if __name__ == "__main__":
    main()
