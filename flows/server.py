"""Find a running Prefect server, or start one that ends with this process.

Prefect can start a temporary server by itself, but in the process group of the flow (Ctrl-C kills it before the flow, which then
retries a closed port for minutes); two concurrent first starts migrate the same database; a failed start is reported only after a
timeout.

Importing this module keeps Prefect and DVC local and free of telemetry. Import it before Prefect, which reads its settings once, at
import. Values that are already in the environment take precedence.
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
    "PREFECT_HOME": str(Path.cwd() / ".prefect"),  # one history per project, independent of the user's Prefect profile
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 contacts an analytics service even where analytics are disabled
}

for _name, _value in LOCAL_SETTINGS.items():
    os.environ.setdefault(_name, _value)
for _name in ("no_proxy", "NO_PROXY"):  # the server is on this machine: bypass proxies
    if "127.0.0.1" not in (_no_proxy := os.environ.get(_name, "")):
        os.environ[_name] = f"{_no_proxy},127.0.0.1,localhost".lstrip(",")


class PrefectServer:
    """Run a Prefect API as a child process that logs to `.prefect/server.log`.

    With a `port` it is a full server with UI and scheduler; without one it serves only the API, on a free port.
    """

    def __init__(self, home: Path, port: int | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = (home / "start.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # held until ready: one first start at a time
        self.log_path = home / "server.log"
        self._port = port or _free_port()
        with self.log_path.open("w") as log:
            self._process = process_groups.spawn(
                *_ephemeral_command(self._port) if port is None else _full_command(self._port), stdout=log, stderr=log
            )
        os.environ["PREFECT_API_URL"] = f"http://{HOST}:{self._port}/api"
        atexit.register(self._stop)  # registered before Prefect's handlers, so it runs after Prefect has sent its last events

    def wait_until_ready(self) -> None:
        """Wait until the API answers; exit with the end of the log if it does not start."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not is_healthy(HOST, self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log_tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-5:])
                sys.exit(
                    f"the Prefect server did not start; log: {self.log_path}\n{log_tail}\n`dvc repro` builds the same without Prefect"
                )
            time.sleep(0.05)
        self._lock.close()

    def _stop(self) -> None:
        self._process.terminate()  # SIGTERM: after SIGINT the server takes a second to shut down
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        process_groups.terminate_groups([self._process.pid], self._process.poll)
        process_groups.unregister(self._process)


def ensure_server() -> PrefectServer | None:
    """Set PREFECT_API_URL, and start an API-only server unless one is running.

    Call before importing Prefect.

    Returns the server that was started, or None.
    """
    return None if find_server() else PrefectServer(Path(os.environ["PREFECT_HOME"]))


def start_server(port: int) -> PrefectServer | None:
    """Do as `ensure_server`, but start a full server with UI and scheduler at `port`."""
    os.environ["PREFECT_SERVER_API_PORT"] = str(port)
    return None if find_server() else PrefectServer(Path(os.environ["PREFECT_HOME"]), port)


def find_server() -> bool:
    """Return whether a server is available, and set PREFECT_API_URL if needed.

    It is set to a healthy server at PREFECT_SERVER_API_PORT.

    That is the port of `prefect server start`, so builds appear in the UI while it is running.
    """
    port = int(os.environ.get("PREFECT_SERVER_API_PORT", "4200"))
    if "PREFECT_API_URL" not in os.environ and is_healthy(HOST, port):
        os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    return "PREFECT_API_URL" in os.environ


def is_healthy(host: str, port: int) -> bool:
    """Return whether a Prefect API at this host and port reports that it is healthy."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().read() == b"true"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ephemeral_command(port: int) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of an API-only server."""
    app = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error"]
    quiet_settings = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"}
    return [sys.executable, "-m", "uvicorn", *app, "--host", HOST, "--port", str(port)], {**os.environ, **quiet_settings}


def _full_command(port: int) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a server with UI and scheduler."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)], dict(os.environ)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
