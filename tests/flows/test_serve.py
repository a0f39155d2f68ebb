"""Test `provenlm serve` with a real server: runs from a form, cancelled runs and scheduled runs."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest
from serving import Served
from tiny_project import HERE, Project

from flows import releases

pytestmark = pytest.mark.slow  # full servers, one process for each run: four minutes of CPU

ORDER = ["scrape@words", "filter@words", "dedupe@words", "tokenize@words", "train@small", "validate@small", "report@proof"]


def tiny(folder):
    """Serve the pipeline of tiny stages."""
    project = Project(folder / "project", HERE / "project")
    project.dvc("init", "--no-scm")
    return Served(folder, project)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = tiny(tmp_path_factory.mktemp("served"))
    served.project.set("reports", "proof", schedule={"cron": "* * * * *", "max_regression_bits_per_byte": 0.0})
    served.project.commit()
    process = served.serve("--on-failure-webhook", f"http://127.0.0.1:{served.listener.server_port}/")
    yield served
    process.send_signal(signal.SIGINT)
    process.wait()
    served.listener.shutdown()


def test_a_schedule_starts_a_refresh_that_publishes(served, eventually):
    eventually(lambda: releases.latest_release(served.project.root, "proof"), 200)


def test_a_run_shows_stages_log_lines_metrics_and_the_report_page(served, eventually):
    run = served.start("build", names=["proof"], overrides=["recipes.small.train.steps=4"])  # no refresh has trained with this
    assert served.ended(run)[0] == "Completed"
    assert {task["name"] for task in served.of("task_runs", run)} == set(ORDER)
    eventually(lambda: set(served.logs(run)) >= {"train begins", "proof: PASS"})
    artifacts = {(artifact["type"], artifact["key"], artifact["description"]) for artifact in served.of("artifacts", run)}
    assert ("markdown", "page-proof", "proof: PASS") in artifacts
    assert ("table", "train-small", "metrics of train@small") in artifacts


def test_form_parameters_are_typed_and_wrong_values_refused(served):
    form = served.deployment("refresh")["parameter_openapi_schema"]["properties"]["report"]
    assert form["const"] == "proof" and form["description"].startswith("report to refresh")
    for wrong in ({"names": ["prof"]}, {"overrides": ["steps=3"]}, {"start_at": "tran"}, {"jobs": 0}):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            served.start("build", **wrong)
        assert refusal.value.code == 409
    run = served.start("build", overrides=["recipes.small.train.steps=many"])
    message = "params.yaml: recipes.small.train.steps: must be a whole number, got 'many'"
    assert served.ended(run) == ("Failed", message) and not served.of("task_runs", run)


def test_a_cancelled_run_saves_and_the_next_one_resumes(served, eventually):
    parameters = {"names": ["small"], "overrides": ["recipes.small.train.steps=60", "recipes.small.train.pause=0.1"]}
    run = served.start("build", **parameters)
    eventually(lambda: "progress-train-small" in [artifact["key"] for artifact in served.of("artifacts", run)], 200)
    served.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert served.ended(run)[0] == "Cancelled"
    eventually(lambda: any(line.startswith("stopped at ") for line in served.logs(run)))
    stopped = next(line for line in served.logs(run) if line.startswith("stopped at "))
    again = served.start("build", **parameters)
    assert served.ended(again)[0] == "Completed"
    eventually(lambda: f"resumes at {stopped.removeprefix('stopped at ')}" in served.logs(again))
    model = next(served.project.root.glob(".worktrees/set-*/models/small/model.json"))
    assert json.loads(model.read_text()) == 60


def test_a_failure_is_one_line_and_is_posted_to_the_webhook(served, eventually):
    fail = "corpora.words.filter={fail: too strict}"
    run = served.start("build", overrides=[fail])
    line = "filter@words: too strict; log: .prefect/logs/filter@words.log"
    assert served.ended(run) == ("Failed", line)
    eventually(lambda: any(line in logged for logged in served.logs(run)))
    assert not [logged for logged in served.logs(run) if "Traceback" in logged]
    eventually(lambda: {"run": f"proof, {fail}", "state": "Failed", "message": line} in served.webhook_posts)


def test_the_status_page_shows_published_versions_and_scheduled_runs(served, eventually):
    eventually(lambda: releases.latest_release(served.project.root, "proof"), 200)
    process = served.project.start(command="status", **served.environment)
    page, err = process.communicate()
    assert process.returncode == 0, err
    assert f"| proof | {releases.latest_release(served.project.root, 'proof')} | proof: " in page
    assert "| refresh | proof | Scheduled | " in page.partition("## Scheduled")[2]
    assert served.ended(served.start("status"))[0] == "Completed"


def test_flows_registered_with_a_pool_are_no_longer_served(tmp_path):
    served = tiny(tmp_path)
    process = served.serve()
    try:
        assert served.ended(served.start("status"))[0] == "Completed"
        assert served.serve("--pool", "nobody").wait() == 0
        run = served.start("status")
        time.sleep(15)  # the serving process polls every two seconds
        assert served.state(run)["type"] == "SCHEDULED"
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        served.listener.shutdown()


def test_crashed_runs_are_marked_and_flows_move_to_a_pool_and_back(tmp_path, eventually):
    served = tiny(tmp_path)
    served.project.set("recipes", "small", train={"steps": 30, "pause": 0.1})
    process = served.serve()
    run = served.start("build")
    eventually(lambda: "train begins" in served.logs(run), 200)
    for killed in served.project.processes():  # as a power failure would
        os.kill(killed, signal.SIGKILL)
    process.wait()
    server = served.serve("--pool", "here")
    assert served.state(run)["name"] == "Crashed"
    environment = {**served.project.environment, **served.environment, "PREFECT_API_URL": f"http://127.0.0.1:{served.port}/api"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "here", "--limit", "1", "--name"]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    workers = [subprocess.Popen([*command, name], cwd=Path(tmp_path), env=environment, **output) for name in ("one", "two")]
    try:
        runs = [served.start("build"), served.start("status")]
        assert [served.ended(run)[0] for run in runs] == ["Completed", "Completed"]
        for process in workers:
            process.send_signal(signal.SIGINT)
            process.wait()
        workers = [served.serve()]
        assert served.ended(served.start("status"))[0] == "Completed"
    finally:
        for process in (*workers, server):
            process.send_signal(signal.SIGINT)
            process.wait()
