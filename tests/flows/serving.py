"""Run a Prefect server with the flows of a project, as `provenlm serve` starts it, and call its API."""

import http.server
import json
import socket
import threading
import time
import urllib.error
import urllib.request


class Served:
    """Hold a project, its server and a webhook that receives failures."""

    def __init__(self, folder, project):
        self.project = project
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.webhook_posts = []
        webhook_posts = self.webhook_posts

        class Listener(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                webhook_posts.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *words):
                pass

        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()
        self.environment = {"PREFECT_SERVER_API_PORT": str(self.port), "PREFECT_HOME": str(folder / "prefect")}

    def serve(self, *words):
        process = self.project.start(*words, "--port", str(self.port), command="serve", **self.environment)
        line = process.stdout.readline()
        while " at http" not in line:
            assert line, process.communicate()[1]
            line = process.stdout.readline()
        for pipe in (process.stdout, process.stderr):
            threading.Thread(target=pipe.read, daemon=True).start()
        return process

    def ask(self, path, body=None, method="POST"):
        """Call the API and return its answer; repeat the call after status 503 (SQLite is busy)."""
        data = None if body is None else json.dumps(body).encode()
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/api{path}", data, {"content-type": "application/json"}, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
            time.sleep(1)

    def deployment(self, name):
        return next(known for known in self.ask("/deployments/filter", {}) if known["name"] == name)

    def start(self, name, **parameters):
        payload = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.ask(f"/deployments/{self.deployment(name)['id']}/create_flow_run", payload)["id"]

    def state(self, run):
        return self.ask(f"/flow_runs/{run}", method="GET")["state"]

    def ended(self, run):
        """Wait until `run` ends and return its state and message."""
        deadline = time.monotonic() + 200
        while (state := self.state(run))["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            assert time.monotonic() < deadline, state
            time.sleep(0.3)
        return state["name"], state["message"]

    def of(self, kind, run):
        return self.ask(f"/{kind}/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def logs(self, run):
        lines = self.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return [line["message"] for line in lines]
