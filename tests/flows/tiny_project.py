"""Provide a project of tiny stages and the commands of a user in it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ruamel.yaml import YAML

HERE = Path(__file__).parent
KEYS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}
os.environ["PYTHONPATH"] = str(HERE.parents[1])  # processes with another working folder use this code
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # `pytest &` in a script starts with SIGINT ignored, which child processes inherit


class Project:
    """Hold the folder of a project and run the commands of a user in it."""

    def __init__(self, root: Path, source: Path) -> None:
        self.root = root
        shutil.copytree(source, root, ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment["PREFECT_SERVER_API_PORT"] = "9"  # nothing listens there, so no server of this machine is found

    def set(self, table: str, name: str, **sections: object) -> None:
        """Change sections of an entry of params.yaml."""
        yaml = YAML()
        params = yaml.load(self.root / "params.yaml")
        params[table][name].update(sections)
        yaml.dump(params, self.root / "params.yaml")

    def git(self, *words: str) -> str:
        """Run git as a user with a name and return its output."""
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
        return subprocess.run(["git", *identity, *words], cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> None:
        """Commit everything that git does not ignore; create the repository if there is none."""
        if not (self.root / ".git").exists():
            self.dvc("config", "core.no_scm", "false")
            self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "current state")

    def start(
        self, *words: str, command: str = "build", wrapper: Sequence[str] = (), **environment: str
    ) -> "subprocess.Popen[str]":
        """Start `provenlm build`, or another command."""
        return subprocess.Popen(
            [*wrapper, sys.executable, "-m", "provenlm.cli", command, *words],
            cwd=self.root,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, *words: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*words, **environment)
        out, err = process.communicate()
        return process.returncode, out, err

    def dvc(self, *words: str) -> str:
        """Run DVC and return its output."""
        environment = {**self.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        completed = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=self.root, env=environment, check=False, capture_output=True, text=True
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def processes(self) -> list[int]:
        """List the ids of the processes whose working folder is the project."""
        pids = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink().is_relative_to(self.root) and (entry / "stat").read_text().split()[2] != "Z":
                    pids.append(int(entry.name))
            except OSError:
                continue
        return pids


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `holds()` is true; fail after a timeout."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.05)
