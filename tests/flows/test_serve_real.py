"""Test that a training cancelled and resumed through the API ends with bit-identical weights."""

import re
import signal
from pathlib import Path

import pytest
import real
from serving import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a server and three trainings


@pytest.fixture
def served(tmp_path):
    served = Served(tmp_path, real.project(tmp_path / "project", None))
    process = served.serve()
    yield served
    process.send_signal(signal.SIGINT)
    process.wait()
    served.listener.shutdown()


def weights(project):
    contents = {path.name: path.read_bytes() for path in (project.root / "models/small").glob("*.safetensors")}
    assert contents
    return contents


def trainings(project):
    lines = [Path(f"/proc/{number}/cmdline").read_bytes() for number in project.processes()]
    return [line for line in lines if b"stages.train" in line]


def test_a_cancelled_and_resumed_training_gives_identical_weights(served, tmp_path, eventually):
    undisturbed = real.project(tmp_path / "undisturbed", None)
    undisturbed.dvc("repro", "train@small")

    run = served.start("build", names=["small"])
    resume = served.project.root / "models/.resume/small"
    eventually(lambda: list(resume.rglob("history.parquet")), 300)
    served.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert served.ended(run)[0] == "Cancelled"
    eventually(lambda: re.search(r"asked to end: saved after step \d+", "\n".join(served.logs(run))))
    step = re.search(r"saved after step (\d+)", "\n".join(served.logs(run)))[1]
    assert 0 < int(step) < 4000 and not trainings(served.project)
    assert not (served.project.root / "models/small").exists()

    again = served.start("build", names=["small"])
    assert served.ended(again)[0] == "Completed"
    assert f"going on after step {step}" in "\n".join(served.logs(again))
    assert weights(served.project) == weights(undisturbed)
