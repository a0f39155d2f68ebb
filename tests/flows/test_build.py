"""Test `provenlm build` as a user runs it: real Prefect, real DVC, a tiny pipeline."""

import json
import re
import signal
import sqlite3

import pytest
from ruamel.yaml import YAML

from flows import dvc_runner
from flows.dvc_runner import resolve_reports
from flows.server import is_healthy
from provenlm.core.config import load_params
from provenlm.core.errors import ProvenlmError

ORDER = ["scrape@words", "filter@words", "dedupe@words", "tokenize@words", "train@small", "validate@small", "report@proof"]


CORPUS, RECIPE = ("scrape", "filter", "dedupe", "tokenize"), ("train", "validate")


def table(out: str) -> list[tuple[str, str]]:
    """The rows at the end of the output: stage and how it ended."""
    rows = [line.split() for line in out.splitlines()]
    return [(row[0], row[1]) for row in rows if len(row) == 4 and row[3] == "s"]


def query(home, columns):
    """Select columns of the last two flow runs."""
    last = "flow_run_id in (select id from flow_run order by created desc limit 2)"
    with sqlite3.connect(home / "prefect.db") as database:
        return sorted(database.execute(f"select {columns} and {last}").fetchall())


def test_a_first_build_runs_every_stage_and_a_second_none(project, home, server):
    code, out, err = project.build(PREFECT_HOME=str(home))
    assert (code, err) == (0, "")
    assert table(out) == [(stage, "ran") for stage in ORDER]
    assert out.endswith("\nproof: PASS\nreports/proof.md reports/proof.html\n")
    assert "::progress" not in out and "dvc" not in out.lower()

    code, out, _ = project.build(**server)
    assert code == 0 and table(out) == [(stage, "cached") for stage in ORDER]
    runs = query(home, "state_name, name from task_run where true")
    assert runs == sorted((state, stage) for state in ("Cached", "Completed") for stage in ORDER)
    artifacts = query(home, "key, type from artifact where type in ('table', 'markdown')")
    assert artifacts == sorted([*((stage.replace("@", "-"), "table") for stage in ORDER), *2 * [("page-proof", "markdown")]])
    assert not project.processes()


def test_a_failing_stage_ends_the_build_with_one_line_and_no_retry(project, server):
    project.set("corpora", "words", filter={"fail": "params.yaml: corpora.words.filter: too strict"})
    code, out, err = project.build(**server)
    assert code == 1
    assert (
        err == "provenlm build: filter@words: params.yaml: corpora.words.filter: too strict; log: .prefect/logs/filter@words.log\n"
    )
    assert out.count("filter begins") == 1 and "dedupe" not in out and "Traceback" not in out


@pytest.mark.slow  # half a minute of DVC processes
def test_stages_behind_a_restored_stage_are_checked_again(built, server):
    """An earlier setting restores the output of filter from the run cache; dedupe has read another output since."""
    for steps in (2, 0):
        built.set("corpora", "words", filter={"steps": steps} if steps else {})
        code, out, err = built.build(**server)
        assert (code, err) == (0, "")
    assert dict(table(out))["filter@words"] == "cached"
    assert "up to date" in built.dvc("status")


def test_require_pass_makes_a_failed_verdict_the_exit_status(built, server):
    built.set("reports", "proof", checks={"steps": 4})
    code, out, _ = built.build("--require-pass", **server)
    assert code == 2 and "\nproof: FAIL\n" in out
    assert table(out) == [*((stage, "cached") for stage in ORDER[:-1]), ("report@proof", "ran")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)])
def test_an_interrupted_training_saves_and_the_next_build_resumes(built, server, until, number, status):
    built.set("recipes", "small", train={"steps": 100, "pause": 0.1})
    # a shell starts background jobs with SIGINT ignored, which children inherit
    process = built.start(wrapper=("sh", "-c", 'trap \'\' INT; exec "$0" "$@"'), **server)
    output = until("train begins", process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status, err
    assert "stopped at" in out and "Traceback" not in output + out + err
    assert not built.processes()
    count = json.loads((built.root / "models/.resume/small.json").read_text())
    built.set("recipes", "small", train={"steps": count + 1})
    lines: list[str] = []
    assert dvc_runner.reproduce(dvc_runner.PlannedStage("train@small", (), True), built.root, lines.append) == "ran"
    assert f"resumes at {count}" in lines


def test_a_killed_flow_leaves_a_checkpoint_and_no_process(built, server, until, eventually):
    built.set("recipes", "small", train={"steps": 1000, "pause": 0.1})
    process = built.start(**server)
    until("train begins", process)
    process.kill()
    process.communicate()
    eventually((built.root / "models/.resume/small.json").exists)
    eventually(lambda: not built.processes())


def test_a_wrong_setting_is_refused_before_the_first_stage(project, server):
    """Of a late stage: without the check, the stages before it would have run."""
    project.set("recipes", "small", train={"steps": "many"})
    message = "provenlm build: params.yaml: recipes.small.train.steps: must be a whole number, got 'many'\n"
    for arguments in ((), ("--dry-run",)):
        code, out, err = project.build(*arguments, **server)
        assert (code, err) == (1, message) and "begins" not in out
    assert not (project.root / "data").exists()


def test_an_unknown_name_is_refused_with_the_known_names(project):
    code, out, err = project.build("prof")
    assert (code, out) == (1, "")
    assert err == "provenlm build: params.yaml: reports: no 'prof' (did you mean 'proof'?); known: proof\n"


def test_a_recipe_selects_its_reports(project):
    params = load_params(project.root / "params.yaml")
    assert resolve_reports(["small", "proof"], params) == resolve_reports([], params) == ["proof"]
    with pytest.raises(ProvenlmError, match="no 'words'"):
        resolve_reports(["words"], params)


def test_a_dry_run_prints_the_plan_and_runs_nothing(project):
    code, out, _ = project.build("--dry-run")
    assert code == 0
    assert [tuple(line.split()[:2]) for line in out.splitlines()] == [(stage, "runs") for stage in ORDER]
    assert not (project.root / "data").exists()


@pytest.mark.slow  # half a minute of DVC processes
def test_an_override_runs_in_a_worktree_and_is_saved_as_experiment(built, server, tmp_path):
    """Also where git has no identity."""
    server = {**server, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    built.commit()
    before = (built.root / "params.yaml").read_bytes(), (built.root / "dvc.lock").read_bytes()
    (built.root / "notes.txt").write_text("not committed")
    words = ("--set", "recipes.small.train.steps=5")
    code, out, err = built.build(*words, **server)
    assert (code, err) == (0, "")
    assert table(out) == [*((stage, "cached") for stage in ORDER[:4]), *((stage, "ran") for stage in ORDER[4:])]
    assert ((built.root / "params.yaml").read_bytes(), (built.root / "dvc.lock").read_bytes()) == before
    tree = built.root / ".worktrees" / (name := re.search(r"dvc exp apply (\S+)`", out)[1])
    assert json.loads((tree / "models/small/model.json").read_text()) == 5
    assert json.loads((built.root / "models/small/model.json").read_text()) == 3
    assert (tree / "notes.txt").exists()
    assert built.git("status", "--porcelain") == "?? notes.txt"

    code, out, _ = built.build(*words, **server)
    assert code == 0 and {status for _, status in table(out)} == {"cached"}
    experiments = json.loads(built.dvc("exp", "show", "--json"))
    assert name in json.dumps(experiments)
    (built.root / "notes.txt").unlink()
    built.dvc("exp", "apply", name)
    assert json.loads((built.root / "models/small/model.json").read_text()) == 5


def test_overrides_are_parsed_before_any_stage_runs(built):
    built.commit()
    for word, answer in (
        (
            "recipes.small.trane.steps=5",
            "recipes.small.trane.steps=5: params.yaml: recipes.small: no 'trane' (did you mean 'train'?)",
        ),
        ("recipes.small.train.steps=many", "params.yaml: recipes.small.train.steps: must be a whole number, got 'many'"),
    ):
        code, out, err = built.build("--dry-run", "--set", word)
        assert (code, out) == (1, "") and err.startswith(f"provenlm build: {answer}")


def test_overrides_need_a_commit(built):
    code, _, err = built.build("--dry-run", "--set", "recipes.small.train.steps=5")
    assert code == 1 and err.startswith("provenlm build: git rev-list: ")


@pytest.mark.slow  # half a minute of DVC processes
def test_an_interrupted_override_resumes(built, server, until):
    built.set("recipes", "small", train={"steps": 3, "pause": 0.1})
    built.commit()
    words = ("--set", "recipes.small.train.steps=40")
    process = built.start(*words, **server)
    until("train begins", process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130 and (stopped := re.search(r"stopped at (\d+)", out))
    code, out, _ = built.build(*words, **server)
    assert code == 0 and f"resumes at {stopped[1]}" in out


@pytest.mark.slow  # half a minute of DVC processes
def test_subjects_run_in_parallel_and_trainings_one_at_a_time(project, server):
    params = YAML(typ="safe").load(project.root / "params.yaml")
    params["corpora"]["more"] = {**params["corpora"]["words"], "scrape": {"meet": "words"}}
    params["corpora"]["words"]["scrape"] = {"meet": "more"}
    for name, corpus in (("small", "words"), ("second", "more")):
        params["recipes"][name] = {**params["recipes"]["small"], "corpus": corpus, "train": {"alone": True, "steps": 2}}
    params["reports"]["proof"] |= {"recipes": ["small", "second"], "corpora": ["words", "more"]}
    YAML().dump(params, project.root / "params.yaml")
    path = project.root / "dvc.yaml"
    path.write_text(path.read_text().replace('${item.recipes[0]}"]', '${item.recipes[0]}", "reports/audits/${item.recipes[-1]}"]'))
    code, out, err = project.build("--jobs", "2", **server)
    assert (code, err) == (0, "")
    assert {stage for stage, status in table(out) if status == "ran"} == {
        *ORDER,
        *(f"{kind}@more" for kind in CORPUS),
        *(f"{kind}@second" for kind in RECIPE),
    }


def test_a_port_of_another_service_is_not_taken_for_prefect():
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other_service:
        threading.Thread(target=other_service.serve_forever, daemon=True).start()
        assert not is_healthy("127.0.0.1", other_service.server_port)
        other_service.shutdown()


def test_a_bug_in_a_flow_is_reported_with_a_traceback(built, server):
    (built.root / "reports/proof.md").unlink()
    (built.root / "dvc.yaml").write_text(
        (built.root / "dvc.yaml").read_text().replace("        - reports/${key}.md: {cache: false}\n", "")
    )
    stage = built.root / "stages/tiny.py"
    stage.write_text(stage.read_text().replace('Path(f"reports/{subject}.md").write_text', "str"))
    code, _, err = built.build(**server)
    assert code == 1 and "Traceback" in err and "FileNotFoundError" in err
