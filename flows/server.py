"""The Prefect server that a flow talks to: one that is running already, else one of our own that lives as long as the flow.

Prefect would start a temporary server itself, but in our process group (Ctrl-C kills it before the flow, which then retries a dead
port for minutes), two first starts at once migrate one database, and a failed start is noticed only after its time-out.

Importing this makes Prefect and DVC local and silent; it comes before Prefect, which reads its settings once, at import. What is
already in the environment wins.
"""

import atexit
import fcntl
import http.client
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from flows import process_groups

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 120.0  # a first start migrates an empty database: 9 s of CPU

LOCAL_SETTINGS = {
    "PREFECT_HOME": str(Path.cwd() / ".prefect"),  # history by project, and no profile of the user's that points elsewhere
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 fetches its configuration from a tracker, whatever one says about tracking
}

for _name, _value in LOCAL_SETTINGS.items():
    os.environ.setdefault(_name, _value)
for _name in ("no_proxy", "NO_PROXY"):  # our own server is on this machine, whatever proxy leads off it
    if "127.0.0.1" not in (_no_proxy := os.environ.get(_name, "")):
        os.environ[_name] = f"{_no_proxy},127.0.0.1,localhost".lstrip(",")


class PrefectServer:
    """A Prefect API as a child process; its output goes to `.prefect/server.log`. Without a `port` it is bare: no pages, no schedules."""

    def __init__(self, home: Path, port: int | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = (home / "start.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # until ready: one first start at a time
        self.log_path = home / "server.log"
        self._port = port or _free_port()
        with self.log_path.open("w") as log:
            self._process = process_groups.spawn(
                *_ephemeral_command(self._port) if port is None else _full_command(self._port), stdout=log, stderr=log
            )
        os.environ["PREFECT_API_URL"] = f"http://{HOST}:{self._port}/api"
        atexit.register(self._stop)  # before Prefect registers its own, so after Prefect has sent its last events

    def wait_until_ready(self) -> None:
        """Return when the API answers. SystemExit with the end of the log if it does not come up."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not is_healthy(HOST, self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log_tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-5:])
                sys.exit(
                    f"Prefect's server did not start, log: {self.log_path}\n{log_tail}\n`dvc repro` builds the same without Prefect"
                )
            time.sleep(0.05)
        self._lock.close()

    def _stop(self) -> None:
        self._process.terminate()  # to this server SIGINT is the slow way out: it takes itself apart for a second
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        process_groups.terminate_groups([self._process.pid], self._process.poll)
        process_groups.unregister(self._process)


def ensure_server() -> PrefectServer | None:
    """To be called before Prefect is imported: name the API to use, and start a bare one unless there is one (then None)."""
    return None if find_server() else PrefectServer(Path(os.environ["PREFECT_HOME"]))


def start_server(port: int) -> PrefectServer | None:
    """As `connect`, but the server that is started is a whole one at `port`."""
    os.environ["PREFECT_SERVER_API_PORT"] = str(port)
    return None if find_server() else PrefectServer(Path(os.environ["PREFECT_HOME"]), port)


def find_server() -> bool:
    """Whether there is an API to use: PREFECT_API_URL names it, or else it answers where `prefect server start` would put it.

    (That is at PREFECT_SERVER_API_PORT; so the same command feeds the pages when they are open.)
    """
    port = int(os.environ.get("PREFECT_SERVER_API_PORT", "4200"))
    if "PREFECT_API_URL" not in os.environ and is_healthy(HOST, port):
        os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    return "PREFECT_API_URL" in os.environ


def is_healthy(host: str, port: int) -> bool:
    """Whether a Prefect API says that it is healthy there."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().read() == b"true"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ephemeral_command(port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment."""
    app = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error"]
    quiet_settings = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"}
    return [sys.executable, "-m", "uvicorn", *app, "--host", HOST, "--port", str(port)], {**os.environ, **quiet_settings}


def _full_command(port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)], dict(os.environ)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
