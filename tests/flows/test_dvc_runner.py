"""Test planning and running single stages with DVC, without Prefect."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows import dvc_runner, process_groups
from provenlm.core.errors import ConfigError

ORDER = ["scrape@words", "filter@words", "dedupe@words", "tokenize@words", "train@small", "validate@small", "report@proof"]


def planned(address):
    return dvc_runner.PlannedStage(address, (), True)


def test_the_plan_has_dvcs_order_and_dependencies(project):
    steps = dvc_runner.plan_stages(["report@proof"], project.root)
    assert [step.address for step in steps] == ORDER
    assert all(step.changed for step in steps)
    assert steps[0].dependencies == () and steps[1].dependencies == ("scrape@words",)
    assert set(steps[5].dependencies) == {"tokenize@words", "train@small"}


def test_a_changed_section_changes_only_its_stage(built):
    assert not any(step.changed for step in dvc_runner.plan_stages(["report@proof"], built.root))
    assert dvc_runner.reproduce(planned("filter@words"), built.root, print) == "cached"
    built.set("corpora", "words", filter={"steps": 2})
    assert [step.address for step in dvc_runner.plan_stages(["report@proof"], built.root) if step.changed] == ["filter@words"]
    assert dvc_runner.reproduce(planned("filter@words"), built.root, print) == "ran"


def test_a_deleted_output_is_restored_from_the_cache(built):
    filtered = built.root / "data/words/filtered/all.json"
    before = filtered.read_text()
    filtered.unlink()
    lines = []
    assert dvc_runner.reproduce(planned("filter@words"), built.root, lines.append) == "restored"
    assert filtered.read_text() == before
    assert not lines


def test_a_failure_names_stage_reason_and_log_in_one_line(project):
    project.set("corpora", "words", scrape={"fail": "params.yaml: corpora.words.scrape: no such site"})
    lines = []
    with pytest.raises(dvc_runner.StageError) as failure:
        dvc_runner.reproduce(planned("scrape@words"), project.root, lines.append)
    log = project.root / ".prefect/logs/scrape@words.log"
    assert str(failure.value) == (
        "scrape@words: params.yaml: corpora.words.scrape: no such site; log: .prefect/logs/scrape@words.log"
    )
    assert lines[0] == "scrape begins" and not [line for line in lines if "dvc" in line.lower()]
    assert "failed to reproduce" in log.read_text()


def test_a_stage_killed_for_memory_is_reported_as_killed(project):
    project.set("corpora", "words", scrape={"signal": signal.SIGKILL.value})
    with pytest.raises(dvc_runner.StageError, match=r"^scrape@words: killed by signal 9"):
        dvc_runner.reproduce(planned("scrape@words"), project.root, print)


def test_a_stage_that_dvc_refuses_reports_dvcs_reason(project):
    with pytest.raises(dvc_runner.StageError, match=r"^filter@words: .*No such file or directory: .*data/words/scraped"):
        dvc_runner.reproduce(planned("filter@words"), project.root, print)


def test_an_unresolvable_dvc_yaml_is_a_config_error_with_dvcs_message(project):
    path = project.root / "dvc.yaml"
    path.write_text(path.read_text().replace("item.corpus", "item.corpse"))
    with pytest.raises(ConfigError, match=r"dvc.yaml: .*item.corpse"):
        dvc_runner.plan_stages(["report@proof"], project.root)


def test_an_interrupted_stage_saves_and_resumes(project):
    project.set("corpora", "words", scrape={"steps": 60, "pause": 0.1})
    lines, processes = [], process_groups.ProcessSet()

    def listen(line):
        lines.append(line)
        if line.startswith("::progress") and not processes.terminated.is_set():
            processes.terminate()

    with pytest.raises(dvc_runner.StageCancelledError, match="scrape@words: stopped"):
        dvc_runner.reproduce(planned("scrape@words"), project.root, listen, processes)
    assert lines[-1].startswith("stopped at ")
    count = int(lines[-1].removeprefix("stopped at "))
    lines.clear()
    project.set("corpora", "words", scrape={"steps": count + 1, "pause": 0})
    assert dvc_runner.reproduce(planned("scrape@words"), project.root, lines.append) == "ran"
    assert f"resumes at {count}" in lines


def test_a_lock_held_by_another_run_is_waited_for(tmp_path):
    waiting, order = threading.Event(), []

    def second():
        with dvc_runner.exclusive_lock([tmp_path / "lock"], waiting.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with dvc_runner.exclusive_lock([tmp_path / "lock"], lambda: pytest.fail("no other run holds the lock")):
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_the_second_of_two_locks_is_taken_without_waiting(tmp_path):
    locks, never = [tmp_path / "a", tmp_path / "b"], lambda: pytest.fail("a lock was free")
    with dvc_runner.exclusive_lock(locks, never), dvc_runner.exclusive_lock(locks, never):
        ended = threading.Event()
        with pytest.raises(dvc_runner.StageCancelledError), dvc_runner.exclusive_lock(locks, ended.set, ended):
            pass


def test_a_terminated_process_set_starts_nothing(tmp_path):
    processes = process_groups.ProcessSet()
    processes.terminate()
    with pytest.raises(InterruptedError), processes.managed_process(["touch", str(tmp_path / "created")]):
        pass
    assert not (tmp_path / "created").exists()


def test_a_plan_that_starts_at_a_stage_has_no_earlier_stages(project):
    steps = dvc_runner.plan_stages(["report@proof"], project.root, "train")
    assert [step.address for step in steps] == ORDER[4:]
    assert steps[0].dependencies == () and steps[1].dependencies == ("train@small",)


def test_a_stage_that_another_dvc_process_runs_is_waited_for(project, monkeypatch):
    """DVC is started only twice: each start takes a lock that the other process needs at its end."""
    project.set("corpora", "words", scrape={"steps": 40, "pause": 0.1})
    commands, run = [], dvc_runner._run_dvc
    monkeypatch.setattr(dvc_runner, "_run_dvc", lambda command, *rest: commands.append(command) or run(command, *rest))
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "scrape@words"],
        cwd=project.root,
        stdout=subprocess.PIPE,
        env={**project.environment, "PYTHONUNBUFFERED": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        text=True,
    )
    while "scrape begins" not in by_hand.stdout.readline():
        assert by_hand.poll() is None
    lines = []
    assert dvc_runner.reproduce(planned("scrape@words"), project.root, lines.append) == "cached"
    assert len(lines) == 1 and re.match(r"waiting for another DVC process: '.*/words/.*' is busy", lines[0])
    assert by_hand.wait() == 0 and len(commands) == 2
    by_hand.stdout.close()


def test_a_killed_lock_holder_ends_the_wait_while_others_live(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    note = tmp_path / "rwlock"
    note.write_text(json.dumps({"write": {"a": {"pid": killed.pid}, "b": {"pid": os.getpid()}, "c": {"pid": 2**22 + 1}}}))
    waiting = threading.Thread(target=dvc_runner._wait_until_free, args=(note, threading.Event()), daemon=True)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    killed.kill()
    killed.communicate()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize("shell", [None, "/bin/sh", "/bin/bash"])
def test_a_killed_stage_reports_its_last_line_not_progress_or_shell_output(project, tmp_path, monkeypatch, shell):
    if shell is not None:  # a shell that waits for its command and prints the signal that ended it
        staying = tmp_path / "staying"
        staying.write_text(f'#!{shell}\neval "$2"\nexit $?\n')
        staying.chmod(0o755)
        monkeypatch.setenv("SHELL", str(staying))
    project.set("corpora", "words", scrape={"signal": signal.SIGTERM.value})
    stage = project.root / "stages/tiny.py"
    stage.write_text(stage.read_text().replace('    if "signal"', "    print('::progress {}', flush=True)\n    if \"signal\""))
    with pytest.raises(dvc_runner.StageError, match=r"^scrape@words: scrape begins; log"):
        dvc_runner.reproduce(dvc_runner.PlannedStage("scrape@words", (), True), project.root, print)
