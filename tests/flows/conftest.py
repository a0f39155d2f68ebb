"""Provide a pipeline of seven tiny stages in its own folder, as a cloned project."""

import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from build_once import build_once
from tiny_project import HERE, Project, eventually


@pytest.fixture(scope="session")
def once_initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `dvc init` in the pipeline, once for all tests."""
    return build_once(
        tmp_path_factory, "initialised", lambda folder: Project(folder / "project", HERE / "project").dvc("init", "--no-scm")
    )


@pytest.fixture
def project(tmp_path: Path, once_initialised: Path) -> Project:
    """Provide a project in which nothing is built."""
    return Project(tmp_path / "project", once_initialised / "project")


@pytest.fixture(scope="session")
def once_built(tmp_path_factory: pytest.TempPathFactory, once_initialised: Path) -> Path:
    """Run `dvc repro` in the pipeline, once for all tests."""
    return build_once(
        tmp_path_factory, "built", lambda folder: Project(folder / "project", once_initialised / "project").dvc("repro")
    )


@pytest.fixture
def built(tmp_path: Path, once_built: Path) -> Project:
    """Provide a project after `dvc repro`."""
    return Project(tmp_path / "project", once_built / "project")


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Run a Prefect server with its database in `home`, and return its URL."""
    script = (
        "import os, pathlib, sys; from flows.server import PrefectServer\n"
        "PrefectServer(pathlib.Path(sys.argv[1])).wait_until_ready()\n"
        "print(os.environ['PREFECT_API_URL'], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home)],
        env={**os.environ, "PREFECT_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def create_database(home: Path) -> None:
    """Let a Prefect server create its database, which takes ten seconds."""
    with prefect_server(home) as url:
        assert url


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a copy of an empty Prefect database, which is created once for all workers."""
    empty = build_once(tmp_path_factory, "prefect", create_database)
    return shutil.copytree(empty, tmp_path_factory.mktemp("prefect") / "home")


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server that flows find."""
    with prefect_server(home) as url:
        yield {"PREFECT_API_URL": url}


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """Run an S3 server with a bucket `store` and provide its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def create_bucket() -> bool:
        try:
            request = urllib.request.Request(f"{url}/store", method="PUT")
            return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).status == 200
        except OSError:
            return False

    try:
        eventually(create_bucket)
        yield url
    finally:
        server.kill()
        server.wait()


def until(text: str, process: "subprocess.Popen[str]") -> str:
    """Read the output of `process` up to `text`."""
    output = ""
    while text not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    return output


@pytest.fixture(name="until")
def _until() -> Callable[..., str]:
    return until
