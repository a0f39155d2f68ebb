"""Publish versions of a report as git tags `published/REPORT/TIME`.

The tag is created in a single step, after its data were pushed, so a published version is complete whenever a process is killed, and
the newest tag is the latest good version. Its commit holds code, params.yaml, dvc.lock and audits; the DVC cache and remote hold the
data; its annotation describes the changes.
"""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import worktrees
from flows.worktrees import run_git
from provenlm.core.config import load_params
from provenlm.core.io import write_text
from provenlm.core.paths import ProjectPaths


def latest_release(home: Path, report: str) -> str | None:
    """Return the newest published version of a report, or None."""
    return next(iter(run_git(home, "tag", "--list", f"published/{report}/*", "--sort=-refname").splitlines()), None)


def open_release_worktree(home: Path, report: str, name: str) -> Path:
    """Check out HEAD in the worktree `name`, with the latest release of `report`.

    A release consists of audits and dvc.lock entries.

    If HEAD contains the release, HEAD is used unchanged. Otherwise the release's entries replace those of HEAD, so that the next version
    builds on the latest release even if nobody has merged it.
    """
    tree = worktrees.ensure_worktree(home, name, run_git(home, "rev-parse", "HEAD"))
    version = latest_release(home, report)
    if version and not head_contains(home, version):
        params = load_params(ProjectPaths(tree).params_yaml)
        subjects = [*params.entry("reports", report)["corpora"], *params.recipes_of(report), report]
        _copy_lock_entries(tree, version, subjects)
        relative_paths = ProjectPaths(Path())
        pages = run_git(
            tree, "ls-tree", "--name-only", version, f"{relative_paths.report_file(report, 'md').parent.as_posix()}/"
        ).splitlines()
        tracked_paths = [relative_paths.audit_json(subject, "").parent.as_posix() for subject in subjects]
        tracked_paths += [page for page in pages if Path(page).name.startswith((f"{report}.", f"{report}_"))]
        for path in tracked_paths:
            if run_git(tree, "ls-tree", version, path):
                run_git(tree, "checkout", version, "--", path)
    worktrees.run_dvc(tree, "checkout", "--allow-missing", "--force", "--quiet")
    return tree


def head_contains(home: Path, version: str) -> bool:
    """Return whether `version` is an ancestor of HEAD."""
    return run_git(home, "merge-base", "HEAD", version) == run_git(home, "rev-parse", f"{version}^{{commit}}")


def publish_release(tree: Path, report: str, message: str) -> str:
    """Commit dvc.lock and reports of `tree` and tag the commit; push the data first.

    The tag is the last step: a release is complete or does not exist.
    """
    run_git(tree, "add", "--all", "--", "dvc.lock", "reports")
    run_git(tree, "commit", "--quiet", "--no-verify", "--allow-empty", "--message", message, identity=worktrees.FALLBACK_IDENTITY)
    version = f"published/{report}/{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    run_git(tree, "tag", "--annotate", "--message", message, version, "HEAD", identity=worktrees.FALLBACK_IDENTITY)
    return version


def push_data(tree: Path, stages: Sequence[str]) -> None:
    """Push the data of the stages to the default DVC remote, if there is one."""
    if any(line.startswith("core.remote=") for line in worktrees.run_dvc(tree, "config", "--list").splitlines()):
        worktrees.run_dvc(tree, "push", *stages)


def push_tag(home: Path, version: str) -> None:
    """Push the tag to the git remote `origin`, if there is one.

    Repeating it is harmless.
    """
    if "origin" in run_git(home, "remote").splitlines():
        run_git(home, "push", "--quiet", "--no-verify", "origin", f"refs/tags/{version}")


def _copy_lock_entries(tree: Path, version: str, subjects: Sequence[str]) -> None:
    yaml, tracked = YAML(), run_git(tree, "ls-tree", "HEAD", "dvc.lock")
    lock: Any = yaml.load(run_git(tree, "show", "HEAD:dvc.lock")) if tracked else {"schema": "2.0", "stages": {}}
    for stage, entry in yaml.load(run_git(tree, "show", f"{version}:dvc.lock"))["stages"].items():
        if stage.partition("@")[2] in subjects:
            lock["stages"][stage] = entry
    out = io.StringIO()
    yaml.dump(lock, out)
    write_text(tree / "dvc.lock", out.getvalue())
