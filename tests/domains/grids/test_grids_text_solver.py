"""Test the way from a puzzle to two attempts by a language model, and a run of puzzles with its submission."""

import json
import multiprocessing
import time

import numpy as np
import pytest
import torch
from torch import nn

from provenlm.domains.grids.content.puzzle import GridPair, Puzzle
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig, FineTuningConfig
from provenlm.domains.grids.evaluate.adaptation.weights_digest import weights_digest
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits
from provenlm.domains.grids.evaluate.budgets.oom_ladder import TaskPlan
from provenlm.domains.grids.evaluate.budgets.outcome import TaskOutcome
from provenlm.domains.grids.evaluate.budgets.task_run import RunBudget
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel
from provenlm.domains.grids.evaluate.solve import text_solver
from provenlm.domains.grids.evaluate.solve.grid_vocabulary import PLAIN_VOCABULARY
from provenlm.domains.grids.evaluate.solve.solve_run import read_answer, solve_puzzles
from provenlm.domains.grids.evaluate.solve.text_solver import TextSolverConfig, TextTask, solve_text_task
from provenlm.domains.grids.evaluate.submission import find_submission_faults

ZERO = np.zeros((1, 1), np.uint8)


def dot_puzzle(task_id: str = "a", solution: np.ndarray | None = ZERO) -> Puzzle:
    """Return a puzzle whose answer is always one cell of colour 0, whatever the view."""
    inputs = [np.full((2, 2), color, np.uint8) for color in (1, 2, 3)]
    return Puzzle(task_id, "toy", "training", tuple(GridPair(grid, ZERO) for grid in inputs[:2]), (GridPair(inputs[2], solution),))


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    import transformers

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=13, **sizes, **heads)).eval()


@pytest.fixture
def channel():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    channel = TaskChannel(sender, time.monotonic() + 3600)  # part of it is for training, and the first task pays the import of peft
    channel.receiver = receiver
    return channel


def config(method: str, num_steps: int = 30, **fields: object) -> TextSolverConfig:
    """Return settings for the tiny model."""
    fine_tuning = FineTuningConfig(num_steps=num_steps, batch_size=4, learning_rate=2e-2)
    return TextSolverConfig(AdapterConfig(method=method, rank=4), fine_tuning, num_lessons=16, num_views=2, **fields)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_test_time_training_solves_what_the_base_does_not(llama, channel, method):
    digest = weights_digest(llama)
    task = TextTask(dot_puzzle(), config(method), lambda: (llama, PLAIN_VOCABULARY))
    outcome = solve_text_task(task, channel)
    base = solve_text_task(TextTask(dot_puzzle(), config("none"), task.load_model), channel)
    assert outcome.answer == [[[[0]]]] and outcome.votes == (2,)
    assert base.answer != outcome.answer and (base.num_trainable_params, base.num_steps, base.first_loss) == (0, 0, None)
    assert outcome.base_digest == digest and outcome.max_weight_change > 0
    assert (outcome.num_refused_lessons, outcome.num_unreadable_answers, outcome.num_fallbacks) == (0, 0, 0)
    assert outcome.num_trainable_params > 0 and outcome.num_steps == 30 and outcome.last_loss < outcome.first_loss / 2
    assert weights_digest(llama) == digest


def test_a_visible_solution_changes_nothing(llama, channel):
    """The solver hides what a caller forgot to hide."""
    outcomes = [
        solve_text_task(
            TextTask(dot_puzzle(solution=solution), config("lora", num_steps=4), lambda: (llama, PLAIN_VOCABULARY)), channel
        )
        for solution in (None, np.full((9, 9), 7, np.uint8))
    ]
    assert outcomes[0] == outcomes[1]


def test_an_answer_is_sent_before_the_model_is_loaded(channel):
    def load_model():
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        solve_text_task(TextTask(dot_puzzle(), config("lora"), load_model), channel)
    kind, outcome = channel.receiver.recv()
    assert kind == "answer" and outcome.answer == [[[[3]]]]  # the input, cut to the size that the size rules predict


def test_memory_that_runs_out_leads_down_the_ladder(llama, channel, monkeypatch):
    """Training fails until it recomputes activations; the base is intact between the attempts."""
    plans: list[TaskPlan] = []
    fine_tune = text_solver.fine_tune

    def failing(adapted, lessons, loss, settings, micro_batch_size, recompute, should_stop):
        plans.append((micro_batch_size, recompute))
        if not recompute:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return fine_tune(adapted, lessons, loss, settings, micro_batch_size, recompute, should_stop)

    monkeypatch.setattr(text_solver, "fine_tune", failing)
    outcome = solve_text_task(TextTask(dot_puzzle(), config("lora", num_steps=4), lambda: (llama, PLAIN_VOCABULARY)), channel)
    assert plans == [(2, False), (1, False), (1, True)] and outcome.num_steps == 4
    assert channel.rungs == ["out of memory: 4 micro-batches of 1", "out of memory: recomputed activations"]


def test_a_task_out_of_time_answers_with_what_needs_no_model(llama):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    late = TaskChannel(sender, time.monotonic())
    outcome = solve_text_task(TextTask(dot_puzzle(), config("lora"), lambda: (llama, PLAIN_VOCABULARY)), late)
    assert outcome.answer == [[[[3]]]] and (outcome.num_steps, outcome.num_fallbacks, outcome.num_unreadable_answers) == (0, 1, 2)
    receiver.close()


def answer_by_name(task: tuple[str, list[object]], channel: TaskChannel) -> TaskOutcome:
    """Fail, or answer what the task holds."""
    if task[0] == "fail":
        raise ValueError("planted")
    return TaskOutcome(task[1])


def test_a_run_writes_a_complete_submission_whatever_happens(tmp_path):
    puzzles = {name: dot_puzzle(name, None) for name in ("right", "wrong", "fail", "rubbish")}
    tasks = {"right": ("", [[[[5]], [[0]]]]), "wrong": ("", [[[[5]]]]), "fail": ("fail", []), "rubbish": ("", [[[[11]]], "x"])}
    solutions = {"right": [ZERO], "wrong": [ZERO], "rubbish": [None]}
    budget = RunBudget(task=TaskLimits(memory_bytes=None))
    rows = solve_puzzles(puzzles, tasks, answer_by_name, budget, tmp_path, "key", solutions)
    assert {name: (row.status, row.correct) for name, row in rows.items()} == {
        "right": ("ok", True),
        "wrong": ("ok", False),
        "fail": ("error", None),
        "rubbish": ("ok", None),
    }
    submission = json.loads((tmp_path / "submission.json").read_text())
    assert find_submission_faults(submission, puzzles) == []
    assert submission["right"] == [{"attempt_1": [[5]], "attempt_2": [[0]]}]
    assert submission["fail"] == submission["rubbish"] == [{"attempt_1": [[3]], "attempt_2": [[3]]}]


@pytest.mark.parametrize("answer", [None, 5, "x", {"a": 1}])
def test_a_row_without_an_answer_has_no_attempts(answer):
    assert read_answer(answer) == []
