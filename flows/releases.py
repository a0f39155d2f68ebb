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
from flows.worktrees import git
from provenlm.core import config as parameters
from provenlm.core import io as files
from provenlm.core.paths import Layout


def last(home: Path, report: str) -> str | None:
    """The newest published version of `report`."""
    return next(iter(git(home, "tag", "--list", f"published/{report}/*", "--sort=-refname").splitlines()), None)


def opened(home: Path, report: str, name: str) -> Path:
    """The checkout `name` at today's code and params, but with what the newest version of `report` measured and locked.

    Where HEAD holds that version already, HEAD is right. Otherwise its entries of dvc.lock take the place of HEAD's: the next version
    builds on the last one, whether or not somebody has merged that.
    """
    tree = worktrees.opened(home, name, git(home, "rev-parse", "HEAD"))
    version = last(home, report)
    if version and not contains(home, version):
        params = parameters.load(Layout(tree).params)
        subjects = [*params.row("reports", report)["corpora"], *params.covered(report), report]
        _carry_lock(tree, version, subjects)
        here = Layout(Path())
        pages = git(tree, "ls-tree", "--name-only", version, f"{here.report(report, 'md').parent.as_posix()}/").splitlines()
        wanted = [here.audit(subject, "").parent.as_posix() for subject in subjects]
        wanted += [page for page in pages if Path(page).name.startswith((f"{report}.", f"{report}_"))]
        for address in wanted:
            if git(tree, "ls-tree", version, address):
                git(tree, "checkout", version, "--", address)
    worktrees.dvc(tree, "checkout", "--allow-missing", "--force", "--quiet")
    return tree


def contains(home: Path, version: str) -> bool:
    """Whether HEAD of `home` stands on `version`."""
    return git(home, "merge-base", "HEAD", version) == git(home, "rev-parse", f"{version}^{{commit}}")


def publish(tree: Path, report: str, why: str) -> str:
    """Commit what `tree` holds and tag it; its data must be where they are to be found. Published with the last step, or not at all."""
    git(tree, "add", "--all", "--", "dvc.lock", "reports")
    git(tree, "commit", "--quiet", "--no-verify", "--allow-empty", "--message", why, who=worktrees.NOBODY)
    version = f"published/{report}/{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    git(tree, "tag", "--annotate", "--message", why, version, "HEAD", who=worktrees.NOBODY)
    return version


def push_data(tree: Path, stages: Sequence[str]) -> None:
    """To DVC's default remote, if one is named; what is there already is not sent again."""
    if any(line.startswith("core.remote=") for line in worktrees.dvc(tree, "config", "--list").splitlines()):
        worktrees.dvc(tree, "push", *stages)


def push_tag(home: Path, version: str) -> None:
    """To the remote `origin`, if there is one. Once more does no harm."""
    if "origin" in git(home, "remote").splitlines():
        git(home, "push", "--quiet", "--no-verify", "origin", f"refs/tags/{version}")


def _carry_lock(tree: Path, version: str, subjects: Sequence[str]) -> None:
    yaml, known = YAML(), git(tree, "ls-tree", "HEAD", "dvc.lock")
    lock: Any = yaml.load(git(tree, "show", "HEAD:dvc.lock")) if known else {"schema": "2.0", "stages": {}}
    for stage, entry in yaml.load(git(tree, "show", f"{version}:dvc.lock"))["stages"].items():
        if stage.partition("@")[2] in subjects:
            lock["stages"][stage] = entry
    out = io.StringIO()
    yaml.dump(lock, out)
    files.write_text(tree / "dvc.lock", out.getvalue())
