"""Published versions of a report: git tags `published/REPORT/TIME`. One is made in a single step, after all that it names was pushed.

So what is published is always whole, whatever is killed when: the tag either is there or is not, and the newest one is the last good
version. Its commit holds code, params.yaml, dvc.lock and audits; DVC's cache and remote hold the data; its annotation says why.
"""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import worktrees
from flows.worktrees import run_git
from provenlm.core import config as parameters
from provenlm.core import io as files
from provenlm.core.paths import ProjectPaths


def latest_release(home: Path, report: str) -> str | None:
    """The newest published version of `report`."""
    return next(iter(run_git(home, "tag", "--list", f"published/{report}/*", "--sort=-refname").splitlines()), None)


def open_release_worktree(home: Path, report: str, name: str) -> Path:
    """The checkout `name` at today's code and params, but with what the newest version of `report` measured and locked.

    Where HEAD holds that version already, HEAD is right. Otherwise its entries of dvc.lock take the place of HEAD's: the next version
    builds on the last one, whether or not somebody has merged that.
    """
    tree = worktrees.ensure_worktree(home, name, run_git(home, "rev-parse", "HEAD"))
    version = latest_release(home, report)
    if version and not head_contains(home, version):
        params = parameters.load_params(ProjectPaths(tree).params_yaml)
        subjects = [*params.entry("reports", report)["corpora"], *params.recipes_of(report), report]
        _copy_lock_entries(tree, version, subjects)
        relative_layout = ProjectPaths(Path())
        pages = run_git(
            tree, "ls-tree", "--name-only", version, f"{relative_layout.report_file(report, 'md').parent.as_posix()}/"
        ).splitlines()
        paths = [relative_layout.audit_json(subject, "").parent.as_posix() for subject in subjects]
        paths += [page for page in pages if Path(page).name.startswith((f"{report}.", f"{report}_"))]
        for path in paths:
            if run_git(tree, "ls-tree", version, path):
                run_git(tree, "checkout", version, "--", path)
    worktrees.run_dvc(tree, "checkout", "--allow-missing", "--force", "--quiet")
    return tree


def head_contains(home: Path, version: str) -> bool:
    """Whether HEAD of `home` stands on `version`."""
    return run_git(home, "merge-base", "HEAD", version) == run_git(home, "rev-parse", f"{version}^{{commit}}")


def tag_release(tree: Path, report: str, message: str) -> str:
    """Commit what `tree` holds and tag it; its data must be where they are to be found. Published with the last step, or not at all."""
    run_git(tree, "add", "--all", "--", "dvc.lock", "reports")
    run_git(tree, "commit", "--quiet", "--no-verify", "--allow-empty", "--message", message, identity=worktrees.FALLBACK_IDENTITY)
    version = f"published/{report}/{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    run_git(tree, "tag", "--annotate", "--message", message, version, "HEAD", identity=worktrees.FALLBACK_IDENTITY)
    return version


def push_data(tree: Path, stages: Sequence[str]) -> None:
    """To DVC's default remote, if one is named; what is there already is not sent again."""
    if any(line.startswith("core.remote=") for line in worktrees.run_dvc(tree, "config", "--list").splitlines()):
        worktrees.run_dvc(tree, "push", *stages)


def push_tag(home: Path, version: str) -> None:
    """To the remote `origin`, if there is one. Once more does no harm."""
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
    files.write_text(tree / "dvc.lock", out.getvalue())
