"""`python -m flows.serve` as people use it: a real server on loopback, runs started there, cancelled there, and by the clock."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest
from conftest import HERE, Project
from serving import Served

from flows import releases

pytestmark = pytest.mark.slow  # whole servers, each run a process of its own: four minutes of CPU

ORDER = ["scrape@words", "filter@words", "dedupe@words", "tokenize@words", "train@small", "validate@small", "report@proof"]


def tiny(folder):
    """The pipeline of stages that do nothing, served."""
    project = Project(folder / "project", HERE / "project")
    project.dvc("init", "--no-scm")
    return Served(folder, project)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = tiny(tmp_path_factory.mktemp("served"))
    served.project.set("reports", "proof", schedule={"cron": "* * * * *", "worse": 0.0})
    served.project.commit()
    process = served.serve("--tell", f"http://127.0.0.1:{served.listener.server_port}/")
    yield served
    process.send_signal(signal.SIGINT)
    process.wait()
    served.listener.shutdown()


def test_a_schedule_of_params_yaml_starts_a_refresh_that_publishes(served, eventually):
    eventually(lambda: releases.latest_release(served.project.root, "proof"), 200)


def test_a_run_started_there_shows_each_stage_its_lines_its_figures_and_the_page(served, eventually):
    run = served.start("build", names=["proof"], overrides=["recipes.small.train.steps=4"])  # which no refresh has trained
    assert served.ended(run)[0] == "Completed"
    assert {task["name"] for task in served.of("task_runs", run)} == set(ORDER)
    eventually(lambda: set(served.logs(run)) >= {"train begins", "proof: PASS"})
    made = {(found["type"], found["key"], found["description"]) for found in served.of("artifacts", run)}
    assert ("markdown", "page-proof", "proof: PASS") in made and ("table", "train-small", "figures of train@small") in made


def test_what_the_form_asks_is_typed_and_wrong_words_are_refused_before_a_run(served):
    form = served.deployment("refresh")["parameter_openapi_schema"]["properties"]["report"]
    assert form["const"] == "proof" and form["description"].startswith("what is refreshed")
    for wrong in ({"names": ["prof"]}, {"overrides": ["steps=3"]}, {"begin": "tran"}, {"jobs": 0}):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            served.start("build", **wrong)
        assert refusal.value.code == 409
    run = served.start("build", overrides=["recipes.small.train.steps=many"])
    message = "params.yaml: recipes.small.train.steps: must be a whole number, got 'many'"
    assert served.ended(run) == ("Failed", message) and not served.of("task_runs", run)


def test_a_run_cancelled_there_saves_and_the_next_goes_on_to_the_same_end(served, eventually):
    wanted = {"names": ["small"], "overrides": ["recipes.small.train.steps=60", "recipes.small.train.pause=0.1"]}
    run = served.start("build", **wanted)
    eventually(lambda: "progress-train-small" in [found["key"] for found in served.of("artifacts", run)], 200)
    served.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert served.ended(run)[0] == "Cancelled"
    eventually(lambda: any(line.startswith("stopped at ") for line in served.logs(run)))
    stopped = next(line for line in served.logs(run) if line.startswith("stopped at "))
    again = served.start("build", **wanted)
    assert served.ended(again)[0] == "Completed"
    eventually(lambda: f"goes on at {stopped.removeprefix('stopped at ')}" in served.logs(again))
    model = next(served.project.root.glob(".worktrees/set-*/models/small/model.json"))
    assert json.loads(model.read_text()) == 60


def test_a_failure_is_one_line_of_stage_reason_and_log_and_somebody_is_told(served, eventually):
    fail = "corpora.words.filter={fail: too strict}"
    run = served.start("build", overrides=[fail])
    line = "filter@words: too strict; log: .prefect/logs/filter@words.log"
    assert served.ended(run) == ("Failed", line)
    eventually(lambda: any(line in said for said in served.logs(run)))
    assert not [said for said in served.logs(run) if "Traceback" in said]
    eventually(lambda: {"run": f"proof, {fail}", "state": "Failed", "message": line} in served.told)


def test_the_health_page_says_what_was_published_and_what_comes_next(served, eventually):
    eventually(lambda: releases.latest_release(served.project.root, "proof"), 200)
    process = served.project.start(command="health", **served.environment)
    page, err = process.communicate()
    assert process.returncode == 0, err
    assert f"| proof | {releases.latest_release(served.project.root, 'proof')} | proof: " in page
    assert "| refresh | proof | Scheduled | " in page.partition("## Next")[2]
    assert served.ended(served.start("health"))[0] == "Completed"


def test_flows_that_are_given_to_a_pool_are_no_longer_run_by_who_served_them(tmp_path):
    served = tiny(tmp_path)
    process = served.serve()
    try:
        assert served.ended(served.start("health"))[0] == "Completed"
        assert served.serve("--pool", "nobody").wait() == 0
        run = served.start("health")
        time.sleep(15)  # who serves looks every two seconds
        assert served.state(run)["type"] == "SCHEDULED"
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        served.listener.shutdown()


def test_runs_of_a_killed_process_are_shown_as_crashed_by_the_next_two_workers_share_a_pool_and_flows_come_back_from_it(
    tmp_path, eventually
):
    served = tiny(tmp_path)
    served.project.set("recipes", "small", train={"steps": 30, "pause": 0.1})
    process = served.serve()
    run = served.start("build")
    eventually(lambda: "train begins" in served.logs(run), 200)
    for killed in served.project.processes():  # what a power cut does, but for the server's files
        os.kill(killed, signal.SIGKILL)
    process.wait()
    server = served.serve("--pool", "here")
    assert served.state(run)["name"] == "Crashed"
    environment = {**served.project.environment, **served.environment, "PREFECT_API_URL": f"http://127.0.0.1:{served.port}/api"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "here", "--limit", "1", "--name"]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    workers = [subprocess.Popen([*command, name], cwd=Path(tmp_path), env=environment, **output) for name in ("one", "two")]
    try:
        runs = [served.start("build"), served.start("health")]
        assert [served.ended(run)[0] for run in runs] == ["Completed", "Completed"]
        for process in workers:
            process.send_signal(signal.SIGINT)
            process.wait()
        workers = [served.serve()]
        assert served.ended(served.start("health"))[0] == "Completed"
    finally:
        for process in (*workers, server):
            process.send_signal(signal.SIGINT)
            process.wait()
