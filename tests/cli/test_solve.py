"""Test `provenlm solve` in a folder like that of a competition: input that cannot be written, no network, one folder for output."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provenlm.domains.grids.evaluate.solve.grid_text import CHARACTERS
from provenlm.domains.grids.evaluate.solve.task_files import blank_puzzle
from provenlm.domains.grids.evaluate.submission import find_submission_faults, read_submission
from tests.domains.grids.puzzles import FLIP, GROW, official_tasks, puzzle
from tests.domains.grids.test_grids_task_files import BROKEN, save_model

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = """
import socket

class LocalSocket(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            raise OSError("no network")
        return super().connect(address)

socket.socket = LocalSocket
"""
TASKS = {"a": FLIP, "b": BROKEN, "c": GROW, **{f"d{number}": FLIP for number in range(5)}}  # enough for a kill before the last one
PUZZLES = {name: blank_puzzle(task, name) for name, task in TASKS.items()}
OPTIONS = ("--workers", "1", "--views", "2", "--method", "none", "--minutes", "3")


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """Return a folder with read-only input: a challenges file with one fault, solutions, a model and a guard of sockets."""
    root = tmp_path_factory.mktemp("kaggle")
    (root / "input").mkdir()
    hidden = {name: {**task, "test": [{"input": pair["input"]} for pair in task["test"]]} for name, task in TASKS.items()}
    solutions = {"a": [[[6, 5], [0, 0]]], "d0": [[[6, 5], [0, 0]]]}
    (root / "input" / "challenges.json").write_text(json.dumps(hidden))
    (root / "input" / "solutions.json").write_text(json.dumps(solutions))
    save_model(root / "input" / "model")
    (root / "input" / "sitecustomize.py").write_text(NO_NETWORK)
    (root / "working" / "tmp").mkdir(parents=True)
    for path in [*(root / "input").rglob("*"), root / "input", root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield root
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)


def start(box, *options):
    """Start `provenlm solve` in the working folder of a box, in a process group of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{box / 'input'}:{ROOT}",
        "HOME": "/proc/none",
        "TMPDIR": str(box / "working" / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "provenlm.cli", "solve", "../input/challenges.json", "--model", "../input/model"]
    return subprocess.Popen(
        [*command, *OPTIONS, *options],
        cwd=box / "working",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def rows(box):
    path = box / "working" / "submission.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def result(box):
    """Kill a run after its first task, and repeat the command; return what was there after the kill, and the output."""
    killed = start(box)
    while not rows(box) and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    first = rows(box)
    submission = json.loads((box / "working" / "submission.json").read_bytes())
    finished = start(box, "--solutions", "../input/solutions.json")
    output = finished.communicate(timeout=120)[0]
    assert finished.returncode == 0, output
    return first, submission, output


def test_the_submission_of_a_killed_run_is_complete(result):
    first, submission, _ = result
    assert 1 <= len(first) < len(TASKS) - 1 and find_submission_faults(submission, PUZZLES) == []


def test_the_same_command_resumes_after_a_kill(box, result):
    first, _, output = result
    assert rows(box)[: len(first)] == first and [json.loads(line)["id"] for line in rows(box)] == [*"ac", *list(TASKS)[3:]]
    assert f"{len(first)} of 7 tasks are finished already" in output


def test_a_task_with_a_fault_is_refused_by_name_and_has_a_place(box, result):
    assert "task b: refused: color" in result[2] and "8 tasks, 7 of them answered by the model" in result[2]
    assert set(read_submission(box / "working" / "submission.json", PUZZLES)) == set(TASKS)


def test_solutions_score_the_submission(result):
    assert result[2].count("pass@1: ") == result[2].count("pass@2: ") == 3


def test_nothing_is_written_but_the_submission_and_its_journal(box, result):
    names = {path.name for path in (box / "working").iterdir() if not path.name.startswith(".tmp-")}  # which a kill may leave
    assert names == {"submission.json", "submission.jsonl", "tmp"}
    assert {path.name for path in (box / "input").iterdir()} == {"challenges.json", "solutions.json", "model", "sitecustomize.py"}


def test_ctrl_c_ends_a_run_in_one_line_with_a_complete_submission(box, result):
    """It reaches every process of the terminal; the workers' modules are being imported meanwhile."""
    output = box / "working" / "tmp" / "other.json"
    process = start(box, "--output", str(output))
    while not output.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    lines = [line for line in process.communicate(timeout=60)[0].splitlines() if not line.startswith(("::progress", "task b"))]
    assert (process.returncode, lines) == (130, ["provenlm solve: interrupted; run the same command again to resume"])
    assert find_submission_faults(json.loads(output.read_bytes()), PUZZLES) == []


def test_a_changed_setting_does_not_mix_with_the_rows_of_another_run(box, result, monkeypatch, run_cli):
    monkeypatch.chdir(box / "working")
    status, _, errors = run_cli("solve", "../input/challenges.json", "--model", "../input/model", "--views", "3")
    assert status == 1 and "submission.jsonl: must hold rows of run" in errors and "move it away to begin again" in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--minutes", "0"), "--minutes: must be > 0, got 0.0"),
        (("--model", "none"), "none: must be a folder with model.json of a recipe or config.json of Hugging Face"),
        (("--solutions", "../input/challenges.json"), "must map task ids to lists of grids"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(box, result, monkeypatch, run_cli, options, message):
    monkeypatch.chdir(box / "working")
    status, _, errors = run_cli("solve", "../input/challenges.json", "--model", "../input/model", *OPTIONS, *options)
    assert status == 1 and message in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_the_model_of_the_recipe_solves_a_task_that_it_knows(tmp_path, monkeypatch, run_cli):
    """The task is one that the report says is solved; its embedding is found by its demonstrations."""
    task = official_tasks("arc1")["training/3c9b0459"].task
    (tmp_path / "3c9b0459.json").write_text(json.dumps({**task, "test": [{"input": pair["input"]} for pair in task["test"]]}))
    (tmp_path / "solutions.json").write_text(json.dumps({"3c9b0459": [pair["output"] for pair in task["test"]]}))
    monkeypatch.chdir(tmp_path)
    model = ("--model", str(ROOT / "models" / "arc_joint"))
    status, output, errors = run_cli("solve", "3c9b0459.json", *model, "--solutions", "solutions.json", "--minutes", "3")
    assert status == 0, errors
    assert "pass@1: 1.000" in output


@pytest.mark.slow
def test_a_folder_of_hugging_face_solves_tasks_as_text(tmp_path, monkeypatch, run_cli):
    """The vocabulary of the model is the characters of grids; none of its weights is trained."""
    import tokenizers
    import transformers

    vocabulary = {"<s>": 0, **{character: number for number, character in enumerate(CHARACTERS, 1)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<s>"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=256, **sizes, **ids)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(tmp_path / "hf")
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    (tmp_path / "a.json").write_text(json.dumps(FLIP))
    monkeypatch.chdir(tmp_path)
    status, output, errors = run_cli("solve", "a.json", "--model", "hf", *OPTIONS)
    assert status == 0, output + errors
    assert "1 tasks, 1 of them answered by the model" in output
    assert find_submission_faults(json.loads((tmp_path / "submission.json").read_bytes()), {"a": puzzle(FLIP)}) == []


def test_the_guard_of_the_network_fires(box):
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    environment = {"PYTHONPATH": str(box / "input"), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "no network" in run.stderr
