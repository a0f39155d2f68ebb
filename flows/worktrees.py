"""Further checkouts of the project beside the first, as git worktrees that share its DVC cache: for overrides and for refreshes.

The first checkout is never touched: neither params.yaml nor what is built there changes because somebody tries something, and a
run that is killed leaves nothing behind that has to be put back. (`dvc exp run -S` edits params.yaml in place, and killed leaves it so;
`dvc exp run --temp` runs all stages as one process, which can be neither shown nor stopped stage by stage.)
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from configobj import ConfigObj

from flows import dvc_runner
from provenlm.core import config as parameters
from provenlm.core import hashing
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths

# who commits where no person does, in the words of git's environment, which DVC reads too
FALLBACK_IDENTITY = {f"GIT_{role}_{field}": "provenlm@localhost" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


def run_git(root: Path, *arguments: str, identity: Mapping[str, str] | None = None) -> str:
    """What `git WORDS` prints, done by `who`. ProvenlmError with git's own last words if it fails."""
    environment = {**os.environ, **(identity or {})}
    completed = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, env=environment)
    if completed.returncode:
        raise ProvenlmError(f"git {arguments[0]}: {' '.join((completed.stderr or completed.stdout).split())}")
    return completed.stdout.strip()


def ensure_worktree(home: Path, name: str, commit: str) -> Path:
    """The checkout `name` of the project `home`, made if it is not there, at `commit`. ProvenlmError where there is no git commit.

    What git does not track (data, models, an unfinished training, a crawl's memory) stays from one time to the next.
    """
    if not run_git(home, "rev-list", "--max-count=1", "--all"):
        raise ProvenlmError("git: no commit yet; a further checkout of the project needs one")
    tree = ProjectPaths(home).worktree(name)
    if not (tree / ".git").exists():
        run_git(home, "worktree", "prune")
        run_git(home, "worktree", "add", "--force", "--detach", str(tree), commit)
        crawl_state = ProjectPaths(home).crawl_state_dir("")
        if crawl_state.exists():
            shutil.copytree(
                crawl_state, ProjectPaths(tree).crawl_state_dir("")
            )  # so that a crawl asks again instead of fetching again
    run_git(tree, "reset", "--hard", "--quiet", commit)
    run_git(tree, "clean", "--force", "-d", "--quiet")
    _share_cache(home, tree)
    return tree


def prepare_worktree(home: Path, overrides: Sequence[str]) -> Path:
    """The checkout to build in: `home`, or with `overrides`, which are checked by the parsers of the stages, a further one."""
    if not overrides:
        return home
    root = override_worktree(home, overrides)
    check = subprocess.run([sys.executable, "-m", "provenlm.cli.check"], cwd=root, capture_output=True, text=True, check=False)
    if check.returncode:
        raise ProvenlmError(" ".join(check.stderr.strip().splitlines()[-1:]) or "params.yaml could not be checked")
    run_dvc(root, "checkout", "--allow-missing", "--force", "--quiet")  # what the cache lacks is for the run to make
    return root


def override_worktree(home: Path, overrides: Sequence[str]) -> Path:
    """A checkout of `home` as it stands, uncommitted changes included, with `overrides` in its params.yaml.

    Its name is made of the overrides: the same ones find what an interrupted run of theirs has left.
    """
    tree = ensure_worktree(home, f"set-{hashing.sha256_json(sorted(overrides))[:8]}", "HEAD")
    deleted = run_git(home, "ls-files", "-z", "--deleted").split("\0")
    for name in filter(None, run_git(home, "ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")):
        if name in deleted:
            (tree / name).unlink(missing_ok=True)
        else:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(home / name, tree / name)
    parameters.override_params(ProjectPaths(tree).params_yaml, overrides)
    return tree


def save_experiment(tree: Path, stages: Sequence[str]) -> None:
    """Keep what was built in `tree` as the DVC experiment of its name: `dvc exp show` lists it, `dvc exp apply` brings it here."""
    run_dvc(tree, "exp", "save", "--force", "--name", tree.name, *stages)


def run_dvc(root: Path, *arguments: str) -> str:
    """What `dvc WORDS` prints. ProvenlmError with DVC's own words if it fails."""
    has_identity = all(run_git(root, "config", "--default", "", "--get", f"user.{field}") for field in ("name", "email"))
    environment = {
        **({} if has_identity else FALLBACK_IDENTITY),
        **dvc_runner.dvc_environment(),
    }  # a container or a new machine was told no name
    completed = subprocess.run(
        [*dvc_runner.DVC_COMMAND, *arguments], cwd=root, capture_output=True, text=True, check=False, env=environment
    )
    if completed.returncode:
        raise ProvenlmError(f"dvc {arguments[0]}: {' '.join((completed.stderr or completed.stdout).split())}")
    return completed.stdout.strip()


def _share_cache(home: Path, tree: Path) -> None:
    """Give `tree` the settings of `home` that git does not know (remotes, credentials), its cache, and its remotes that are folders.

    A folder's address is relative to the checkout that names it.
    """
    config = ConfigObj(str(home / ".dvc" / "config.local"), list_values=False)
    config.setdefault("cache", {})["dir"] = str(home / ".dvc" / "cache")
    for name, equals, value in (line.partition("=") for line in run_dvc(home, "config", "--list").splitlines()):
        section, _, key = name.rpartition(".")
        if equals and name == "cache.dir":
            config["cache"]["dir"] = value
        elif equals and section.startswith("remote.") and key == "url" and value.startswith("/"):
            config.setdefault(f'remote "{section.removeprefix("remote.")}"', {})["url"] = value
    config.filename = str(tree / ".dvc" / "config.local")
    config.write()
