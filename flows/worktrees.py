"""Manage git worktrees that share the DVC cache, for overrides and refreshes.

The main checkout is never changed: neither its params.yaml nor its outputs, and a killed run leaves nothing to restore. (`dvc exp run
-S` edits params.yaml in place and, if killed, leaves it edited; `dvc exp run --temp` runs all stages in one process, whose stages can
be neither shown nor stopped one by one.)
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from configobj import ConfigObj

from flows import dvc_runner
from provenlm.core import hashing
from provenlm.core.config import override_params
from provenlm.core.errors import ConfigError, ProvenlmError
from provenlm.core.paths import ProjectPaths

# committer of automatic commits, as environment variables of git, which DVC reads too
FALLBACK_IDENTITY = {f"GIT_{role}_{field}": "provenlm@localhost" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


def run_git(root: Path, *arguments: str, identity: Mapping[str, str] | None = None) -> str:
    """Run git and return its output.

    Raise ProvenlmError with its error output if it fails.

    `identity` holds environment variables that name author and committer.
    """
    environment = {**os.environ, **(identity or {})}
    completed = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, env=environment)
    if completed.returncode:
        raise ProvenlmError(f"git {arguments[0]}: {' '.join((completed.stderr or completed.stdout).split())}")
    return completed.stdout.strip()


def ensure_worktree(home: Path, name: str, commit: str) -> Path:
    """Check out `commit` in the worktree `name` of the project `home`.

    The worktree is created if it does not exist.

    Files that git does not track (data, models, unfinished trainings, crawl state) are kept between runs. Raises ProvenlmError if the
    project has no git commit.
    """
    if not run_git(home, "rev-list", "--max-count=1", "--all"):
        raise ProvenlmError("git: the project must have a commit to create a worktree, got none")
    tree = ProjectPaths(home).worktree(name)
    if not (tree / ".git").exists():
        run_git(home, "worktree", "prune")
        run_git(home, "worktree", "add", "--force", "--detach", str(tree), commit)
        crawl_state = ProjectPaths(home).crawl_state_dir("")
        if crawl_state.exists():
            # so that a crawl revalidates known pages instead of fetching them again
            shutil.copytree(crawl_state, ProjectPaths(tree).crawl_state_dir(""))
    run_git(tree, "reset", "--hard", "--quiet", commit)
    run_git(tree, "clean", "--force", "-d", "--quiet")
    _share_cache(home, tree)
    return tree


def prepare_worktree(home: Path, overrides: Sequence[str], reports: Sequence[str]) -> Path:
    """Return the checkout to build the reports in.

    It is `home`, or with overrides a worktree whose params.yaml was checked.
    """
    if not overrides:
        return home
    root = override_worktree(home, overrides)
    check_params(root, reports)
    run_dvc(root, "checkout", "--allow-missing", "--force", "--quiet")  # the run makes what the cache does not have
    return root


def check_params(root: Path, reports: Sequence[str]) -> None:
    """Parse the sections of params.yaml that the reports use, in a process of its own.

    The parsers import torch, which the flows do not. Raises ConfigError with the message of the parser.
    """
    command = [sys.executable, "-m", "provenlm.cli", "check", *reports]
    check = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if check.returncode:
        message = " ".join(check.stderr.strip().splitlines()[-1:]).removeprefix("provenlm check: ")
        raise ConfigError(message or "params.yaml: the check failed without a message")


def override_worktree(home: Path, overrides: Sequence[str]) -> Path:
    """Copy the state of `home` to a worktree and override its params.yaml.

    Uncommitted changes are included.

    The name of the worktree is derived from the overrides, so that an interrupted run with the same overrides resumes.
    """
    tree = ensure_worktree(home, f"set-{hashing.sha256_json(sorted(overrides))[:8]}", "HEAD")
    deleted = run_git(home, "ls-files", "-z", "--deleted").split("\0")
    for name in filter(None, run_git(home, "ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")):
        if name in deleted:
            (tree / name).unlink(missing_ok=True)
        else:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(home / name, tree / name)
    override_params(ProjectPaths(tree).params_yaml, overrides)
    return tree


def save_experiment(tree: Path, stages: Sequence[str]) -> None:
    """Save the results in `tree` as a DVC experiment with its name."""
    run_dvc(tree, "exp", "save", "--force", "--name", tree.name, *stages)


def run_dvc(root: Path, *arguments: str) -> str:
    """Run DVC and return its output.

    Raise ProvenlmError with its error output if it fails.
    """
    has_identity = all(run_git(root, "config", "--default", "", "--get", f"user.{field}") for field in ("name", "email"))
    # git has no identity in a container or on a new machine
    environment = {**({} if has_identity else FALLBACK_IDENTITY), **dvc_runner.dvc_environment()}
    completed = subprocess.run(
        [*dvc_runner.DVC_COMMAND, *arguments], cwd=root, capture_output=True, text=True, check=False, env=environment
    )
    if completed.returncode:
        raise ProvenlmError(f"dvc {arguments[0]}: {' '.join((completed.stderr or completed.stdout).split())}")
    return completed.stdout.strip()


def _share_cache(home: Path, tree: Path) -> None:
    """Copy untracked DVC settings, with cache and remotes, from `home` to `tree`.

    They include credentials.

    Paths of local remotes are relative to a checkout, so they are made absolute.
    """
    dvc_config = ConfigObj(str(home / ".dvc" / "config.local"), list_values=False)
    dvc_config.setdefault("cache", {})["dir"] = str(home / ".dvc" / "cache")
    for name, equals, value in (line.partition("=") for line in run_dvc(home, "config", "--list").splitlines()):
        section, _, key = name.rpartition(".")
        if equals and name == "cache.dir":
            dvc_config["cache"]["dir"] = value
        elif equals and section.startswith("remote.") and key == "url" and value.startswith("/"):
            dvc_config.setdefault(f'remote "{section.removeprefix("remote.")}"', {})["url"] = value
    dvc_config.filename = str(tree / ".dvc" / "config.local")
    dvc_config.write()
