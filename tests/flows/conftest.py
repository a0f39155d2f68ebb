"""A pipeline of seven tiny stages in a folder of its own, as a project that one has cloned."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from ruamel.yaml import YAML

HERE = Path(__file__).parent
KEYS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}
os.environ["PYTHONPATH"] = str(HERE.parents[1])  # processes that work in another folder take the code that stands here
signal.signal(signal.SIGINT, signal.default_int_handler)  # `pytest &` in a script begins with it ignored, and so would all we start


class Project:
    """The folder, and what a person does in it."""

    def __init__(self, root: Path, copied: Path) -> None:
        self.root = root
        shutil.copytree(copied, root, ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment["PREFECT_SERVER_API_PORT"] = "9"  # nothing listens there, whatever this machine runs

    def set(self, table: str, name: str, **sections: object) -> None:
        """Change sections of a row of params.yaml."""
        yaml = YAML()
        params = yaml.load(self.root / "params.yaml")
        params[table][name].update(sections)
        yaml.dump(params, self.root / "params.yaml")

    def git(self, *words: str) -> str:
        """What `git WORDS` prints, by somebody with a name."""
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
        return subprocess.run(["git", *who, *words], cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> None:
        """All that git does not ignore, in a repository that is made if there is none."""
        if not (self.root / ".git").exists():
            self.dvc("config", "core.no_scm", "false")
            self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "as it stands")

    def start(
        self, *words: str, command: str = "build", wrapper: Sequence[str] = (), **environment: str
    ) -> "subprocess.Popen[str]":
        """`python -m flows.build` (or another `command`) with `words`."""
        return subprocess.Popen(
            [*wrapper, sys.executable, "-m", f"flows.{command}", *words],
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
        """What `dvc WORDS` prints."""
        environment = {**self.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=self.root, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self) -> list[int]:
        """Those that work in the folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink().is_relative_to(self.root) and (entry / "stat").read_text().split()[2] != "Z":
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Nothing is built yet."""
    project = Project(tmp_path / "project", HERE / "project")
    project.dvc("init", "--no-scm")
    return project


@pytest.fixture(scope="session")
def once_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("built") / "project", HERE / "project")
    project.dvc("init", "--no-scm")
    project.dvc("repro")
    return project.root


@pytest.fixture
def built(tmp_path: Path, once_built: Path) -> Project:
    """`dvc repro` was done."""
    return Project(tmp_path / "project", once_built)


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `holds()`; fail if it never does."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"still not so after {seconds} s"
        time.sleep(0.05)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One history for all tests, because the first server to use it works for ten seconds."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[dict[str, str]]:
    """A Prefect server that runs already, so that a flow finds it."""
    script = (
        "import os, pathlib, sys; from flows import environment\n"
        "server = environment.Server(pathlib.Path(sys.argv[1])); server.ready()\n"
        "print(os.environ['PREFECT_API_URL'], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home)],
        env={**os.environ, "PREFECT_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield {"PREFECT_API_URL": process.stdout.readline().strip()}
        process.stdin.close()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The address of a server that speaks S3, with a bucket `store`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"

    def made() -> bool:
        try:
            request = urllib.request.Request(f"{address}/store", method="PUT")
            return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).status == 200
        except OSError:
            return False

    try:
        eventually(made)
        yield address
    finally:
        server.kill()
        server.wait()


def until(text: str, process: "subprocess.Popen[str]") -> str:
    """What `process` says up to `text`."""
    heard = ""
    while text not in heard:
        line = process.stdout.readline()
        assert line, heard
        heard += line
    return heard


@pytest.fixture(name="until")
def _until() -> Callable[..., str]:
    return until
