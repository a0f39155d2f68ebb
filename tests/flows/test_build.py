"""`python -m flows.build` as a person runs it: real Prefect, real DVC, a tiny pipeline."""

import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from flows import environment, pipeline
from flows.build import targets
from provenlm.core import params as parameters
from provenlm.core.errors import UserError

ORDER = ["scrape@words", "filter@words", "dedupe@words", "tokenize@words", "train@small", "validate@small", "report@proof"]


def table(out: str) -> list[tuple[str, str]]:
    """The rows at the end of the output: stage and how it ended."""
    rows = [line.split() for line in out.splitlines()]
    return [(row[0], row[1]) for row in rows if len(row) == 4 and row[3] == "s"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One history for all tests, because the first server to use it works for ten seconds."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def server(home):
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


def until(text, process):
    """What `process` says up to `text`."""
    heard = ""
    while text not in heard:
        line = process.stdout.readline()
        assert line, heard
        heard += line
    return heard


def query(home, what):
    """Of the last two flow runs."""
    last = "flow_run_id in (select id from flow_run order by created desc limit 2)"
    with sqlite3.connect(home / "prefect.db") as database:
        return sorted(database.execute(f"select {what} and {last}").fetchall())


def test_a_first_build_runs_every_stage_and_a_second_none(project, home):
    code, out, err = project.build(PREFECT_HOME=str(home))
    assert (code, err) == (0, "")
    assert table(out) == [(stage, "ran") for stage in ORDER]
    assert out.endswith("\nproof: PASS\nreports/proof.md reports/proof.html\n")
    assert "::progress" not in out and "dvc" not in out.lower()

    code, out, _ = project.build(PREFECT_HOME=str(home))
    assert code == 0 and table(out) == [(stage, "cached") for stage in ORDER]
    runs = query(home, "state_name, name from task_run where true")
    assert runs == sorted((how, stage) for how in ("Cached", "Completed") for stage in ORDER)
    artifacts = query(home, "key, type from artifact where type in ('table', 'markdown')")
    assert artifacts == sorted([*((stage.replace("@", "-"), "table") for stage in ORDER), *2 * [("report-proof", "markdown")]])
    assert not project.processes()


def test_a_failing_stage_is_said_in_one_line_and_nothing_behind_it_runs(project, server):
    project.set("corpora", "words", filter={"fail": "params.yaml: corpora.words.filter: too strict"})
    code, out, err = project.build(**server)
    assert code == 1
    assert err == "filter@words: params.yaml: corpora.words.filter: too strict; log: .prefect/logs/filter@words.log\n"
    assert "dedupe" not in out and "Traceback" not in out


def test_a_verdict_that_is_not_pass_is_printed_and_on_request_the_exit_status(built, server):
    built.set("reports", "proof", bounds={"steps": 4})
    code, out, _ = built.build("--require-pass", **server)
    assert code == 2 and "\nproof: FAIL\n" in out
    assert table(out) == [*((stage, "cached") for stage in ORDER[:-1]), ("report@proof", "ran")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_is_saved_and_the_next_build_goes_on(built, server, number, status):
    built.set("recipes", "small", train={"steps": 100, "pause": 0.1})
    # as a shell starts a job in the background: deaf to SIGINT, which children inherit
    process = built.start(wrapper=("sh", "-c", 'trap \'\' INT; exec "$0" "$@"'), **server)
    heard = until("train begins", process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status, err
    assert "stopped at" in out and "Traceback" not in heard + out + err
    assert not built.processes()
    count = json.loads((built.root / "models/.resume/small.json").read_text())
    built.set("recipes", "small", train={"steps": count + 1})
    lines: list[str] = []
    assert pipeline.repro(pipeline.Step("train@small", (), True), built.root, lines.append) == "ran"
    assert f"goes on at {count}" in lines


def test_a_killed_flow_leaves_a_checkpoint_and_no_process(built, server, eventually):
    built.set("recipes", "small", train={"steps": 1000, "pause": 0.1})
    process = built.start(**server)
    until("train begins", process)
    process.kill()
    process.communicate()
    eventually((built.root / "models/.resume/small.json").exists)
    eventually(lambda: not built.processes())


def test_a_name_that_nobody_knows_is_answered_with_those_that_are_known(project):
    code, out, err = project.build("prof")
    assert (code, out) == (1, "")
    assert err == "params.yaml: reports: no 'prof' (did you mean 'proof'?); known: proof\n"


def test_a_recipe_stands_for_its_reports(project):
    params = parameters.load(project.root / "params.yaml")
    assert targets(["small", "proof"], params) == targets([], params) == ["proof"]
    with pytest.raises(UserError, match="no 'words'"):
        targets(["words"], params)


def test_a_dry_run_says_what_would_run_and_runs_nothing(project):
    code, out, _ = project.build("--dry-run")
    assert code == 0
    assert [tuple(line.split()[:2]) for line in out.splitlines()] == [(stage, "runs") for stage in ORDER]
    assert not (project.root / "data").exists()


def test_a_port_where_something_else_answers_is_not_taken_for_prefect():
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert not environment.answers("127.0.0.1", other.server_port)
        other.shutdown()


def test_a_fault_in_a_flow_itself_is_not_taken_for_the_users(built, server):
    (built.root / "reports/proof.md").unlink()
    (built.root / "dvc.yaml").write_text(
        (built.root / "dvc.yaml").read_text().replace("        - reports/${key}.md: {cache: false}\n", "")
    )
    stage = built.root / "stages/tiny.py"
    stage.write_text(stage.read_text().replace('Path(f"reports/{subject}.md").write_text', "str"))
    code, _, err = built.build(**server)
    assert code == 1 and "Traceback" in err and "FileNotFoundError" in err
