"""DVC's order, and one stage at a time done by it. No Prefect here."""

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
from provenlm.core.errors import ProvenlmError

ORDER = ["scrape@words", "filter@words", "dedupe@words", "tokenize@words", "train@small", "validate@small", "report@proof"]


def step(stage):
    return dvc_runner.PlannedStage(stage, (), True)


def test_the_plan_is_in_dvcs_order_and_says_who_reads_from_whom(project):
    steps = dvc_runner.plan_stages(["report@proof"], project.root)
    assert [step.address for step in steps] == ORDER
    assert all(step.changed for step in steps)
    assert steps[0].dependencies == () and steps[1].dependencies == ("scrape@words",)
    assert set(steps[5].dependencies) == {"tokenize@words", "train@small"}


def test_what_was_built_is_cached_and_a_changed_section_changes_its_stage_alone(built):
    assert not any(step.changed for step in dvc_runner.plan_stages(["report@proof"], built.root))
    assert dvc_runner.reproduce(step("filter@words"), built.root, print) == "cached"
    built.set("corpora", "words", filter={"steps": 2})
    assert [step.address for step in dvc_runner.plan_stages(["report@proof"], built.root) if step.changed] == ["filter@words"]
    assert dvc_runner.reproduce(step("filter@words"), built.root, print) == "ran"


def test_what_was_made_once_and_deleted_is_restored(built):
    filtered = built.root / "data/words/filtered/all.json"
    before = filtered.read_text()
    filtered.unlink()
    heard = []
    assert dvc_runner.reproduce(step("filter@words"), built.root, heard.append) == "restored"
    assert filtered.read_text() == before
    assert not heard


def test_a_failure_is_one_line_of_stage_reason_and_log(project):
    project.set("corpora", "words", scrape={"fail": "params.yaml: corpora.words.scrape: no such site"})
    heard = []
    with pytest.raises(dvc_runner.StageError) as failure:
        dvc_runner.reproduce(step("scrape@words"), project.root, heard.append)
    log = project.root / ".prefect/logs/scrape@words.log"
    assert str(failure.value) == (
        "scrape@words: params.yaml: corpora.words.scrape: no such site; log: .prefect/logs/scrape@words.log"
    )
    assert heard[0] == "scrape begins" and not [line for line in heard if "dvc" in line.lower()]
    assert "failed to reproduce" in log.read_text()


def test_a_stage_killed_for_memory_is_said_to_be_killed(project):
    project.set("corpora", "words", scrape={"signal": signal.SIGKILL.value})
    with pytest.raises(dvc_runner.StageError, match=r"^scrape@words: killed by signal 9"):
        dvc_runner.reproduce(step("scrape@words"), project.root, print)


def test_a_stage_that_dvc_refuses_gives_dvcs_reason(project):
    with pytest.raises(dvc_runner.StageError, match=r"^filter@words: .*No such file or directory: .*data/words/scraped"):
        dvc_runner.reproduce(step("filter@words"), project.root, print)


def test_a_dvc_yaml_that_cannot_be_resolved_is_the_users_in_dvcs_words(project):
    path = project.root / "dvc.yaml"
    path.write_text(path.read_text().replace("item.corpus", "item.corpse"))
    with pytest.raises(ProvenlmError, match=r"dvc.yaml: .*item.corpse"):
        dvc_runner.plan_stages(["report@proof"], project.root)


def test_an_interrupted_stage_saves_is_heard_and_goes_on(project):
    project.set("corpora", "words", scrape={"steps": 60, "pause": 0.1})
    heard, crew = [], process_groups.ProcessSet()

    def listen(line):
        heard.append(line)
        if line.startswith("::progress") and not crew.terminated.is_set():
            crew.terminate()

    with pytest.raises(dvc_runner.StageCancelledError, match="scrape@words: stopped"):
        dvc_runner.reproduce(step("scrape@words"), project.root, listen, crew)
    assert heard[-1].startswith("stopped at ")
    count = int(heard[-1].removeprefix("stopped at "))
    heard.clear()
    project.set("corpora", "words", scrape={"steps": count + 1, "pause": 0})
    assert dvc_runner.reproduce(step("scrape@words"), project.root, heard.append) == "ran"
    assert f"goes on at {count}" in heard


def test_a_lock_that_another_holds_is_waited_for_and_said(tmp_path):
    said, order = threading.Event(), []

    def second():
        with dvc_runner.exclusive_lock([tmp_path / "lock"], said.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with dvc_runner.exclusive_lock([tmp_path / "lock"], lambda: pytest.fail("nobody else was there")):
        thread.start()
        assert said.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_of_two_slots_the_second_is_taken_without_waiting(tmp_path):
    slots, never = [tmp_path / "a", tmp_path / "b"], lambda: pytest.fail("one was free")
    with dvc_runner.exclusive_lock(slots, never), dvc_runner.exclusive_lock(slots, never):
        ended = threading.Event()
        with pytest.raises(dvc_runner.StageCancelledError), dvc_runner.exclusive_lock(slots, ended.set, ended):
            pass


def test_an_ended_crew_begins_nothing(tmp_path):
    crew = process_groups.ProcessSet()
    crew.terminate()
    with pytest.raises(InterruptedError), crew.managed_process(["touch", str(tmp_path / "made")]):
        pass
    assert not (tmp_path / "made").exists()


def test_a_plan_from_a_stage_on_leaves_out_what_stands_before(project):
    steps = dvc_runner.plan_stages(["report@proof"], project.root, "train")
    assert [step.address for step in steps] == ORDER[4:]
    assert steps[0].dependencies == () and steps[1].dependencies == ("train@small",)


def test_a_stage_that_someone_runs_by_hand_is_waited_for(project, monkeypatch):
    """DVC is asked twice: each question takes a lock that the other one needs at its end, and it fails where it meets a question."""
    project.set("corpora", "words", scrape={"steps": 40, "pause": 0.1})
    asked, run = [], dvc_runner._run_dvc
    monkeypatch.setattr(dvc_runner, "_run", lambda command, *more: asked.append(command) or run(command, *more))
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "scrape@words"],
        cwd=project.root,
        stdout=subprocess.PIPE,
        env={**project.environment, "PYTHONUNBUFFERED": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        text=True,
    )
    while "scrape begins" not in by_hand.stdout.readline():
        assert by_hand.poll() is None
    heard = []
    assert dvc_runner.reproduce(step("scrape@words"), project.root, heard.append) == "cached"
    assert len(heard) == 1 and re.match(r"waiting for another DVC: '.*/words/.*' is busy", heard[0])
    assert by_hand.wait() == 0 and len(asked) == 2
    by_hand.stdout.close()


def test_who_is_killed_is_waited_for_no_longer_though_others_in_the_note_go_on(tmp_path):
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
def test_a_stage_that_dies_after_a_progress_line_gives_its_last_words_and_not_that_line_nor_its_shell_s(
    project, tmp_path, monkeypatch, shell
):
    if shell is not None:  # one that stays beside its command, and tells of the signal that ended it
        staying = tmp_path / "staying"
        staying.write_text(f'#!{shell}\neval "$2"\nexit $?\n')
        staying.chmod(0o755)
        monkeypatch.setenv("SHELL", str(staying))
    project.set("corpora", "words", scrape={"signal": signal.SIGTERM.value})
    stage = project.root / "stages/tiny.py"
    stage.write_text(stage.read_text().replace('    if "signal"', "    print('::progress {}', flush=True)\n    if \"signal\""))
    with pytest.raises(dvc_runner.StageError, match=r"^scrape@words: scrape begins; log"):
        dvc_runner.reproduce(dvc_runner.PlannedStage("scrape@words", (), True), project.root, print)
