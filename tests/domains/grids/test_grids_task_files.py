"""Test reading tasks to solve, and a trained model that gets a task it does not know."""

import json
import time
from dataclasses import asdict
from multiprocessing import Pipe

import pytest
import torch

from provenlm.core.errors import CheckpointError, DataError
from provenlm.domains.grids.content.puzzle import find_grid_fault, hide_solutions
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel
from provenlm.domains.grids.evaluate.solve.model_folder import FolderTask, find_solver, solve_with_grid_model, solve_with_text_model
from provenlm.domains.grids.evaluate.solve.new_task import demonstration_batch, demonstration_loss, load_with_new_task
from provenlm.domains.grids.evaluate.solve.task_files import read_task_files
from provenlm.domains.grids.evaluate.submission import encode_submission
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.spec import SPEC
from provenlm.training.checkpoints.checkpoint import Checkpoint, ModelMetadata, load_model, save_checkpoint
from tests.domains.grids.puzzles import FLIP, GROW, puzzle, write_folder

CONFIG = GridTransformerConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_tasks=3)
BROKEN = {"train": [{"input": [[10]], "output": [[1]]}], "test": [{"input": [[1, 2]]}, {"input": [[1], [2, 3]]}]}


def save_model(folder):
    """Write an untrained grid model whose tasks differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SPEC.build(CONFIG, 21)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    metadata = ModelMetadata("grid_transformer", asdict(CONFIG), 21, 64)
    save_checkpoint(folder, Checkpoint({"model": model.state_dict()}, {}), {"model.json": metadata.to_json()})
    return folder


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_challenges_file_gives_its_tasks_in_order_without_outputs(tmp_path):
    files = read_task_files(write(tmp_path / "c.json", {"b": GROW, "a": hide_solutions(FLIP)[0]}))
    assert list(files.puzzles) == ["b", "a"] and files.faults == {}
    assert all(pair.output is None for puzzle in files.puzzles.values() for pair in puzzle.test)
    assert len(files.puzzles["b"].train) == 2


def test_a_single_task_is_named_by_its_file(tmp_path):
    files = read_task_files(write(tmp_path / "0a0b.json", FLIP))
    assert list(files.puzzles) == list(files.sound) == ["0a0b"]


def test_a_folder_gives_a_task_for_each_file_and_refuses_others_by_name(tmp_path):
    tasks = {"training/a": FLIP, "evaluation/b": GROW, "test/b": FLIP, "c": "no JSON", "d": [1]}
    files = read_task_files(write_folder(tmp_path / "t", tasks))
    write(tmp_path / "t" / "README.txt", "none")
    assert set(files.sound) == {"a", "b"}
    names = {name.rpartition("/t/")[2]: fault for name, fault in files.faults.items()}
    assert names == {"test/b.json": "repeated-id", "c.json": "no-json", "d": "no-task"}


def test_faulty_tasks_of_a_challenges_file_keep_their_place(tmp_path):
    files = read_task_files(write(tmp_path / "c.json", {"a": FLIP, "b": BROKEN, "c": "text", "d": {**FLIP, "test": []}}))
    assert files.faults == {"b": "color", "c": "no-task", "d": "no_test_pairs"} and list(files.sound) == ["a"]
    submission = json.loads(encode_submission(files.puzzles, {}))
    assert {task_id: len(outputs) for task_id, outputs in submission.items()} == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert submission["b"][0]["attempt_1"] == [[1, 2]] and submission["b"][1]["attempt_2"] == [[0]]


def test_an_id_that_occurs_twice_is_refused_by_name(tmp_path):
    files = read_task_files(write(tmp_path / "c.json", f'{{"a": {json.dumps(FLIP)}, "a": {json.dumps(GROW)}}}'))
    assert files.faults == {"a (repeated)": "repeated-id"} and len(files.sound["a"].train[0].input) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be one task, or an object of tasks by id, got a list"),
        ("{", "must be JSON"),
        ({"a": BROKEN}, "must hold at least one task without a fault, got none; first: a: color"),
        ({}, "must hold at least one task without a fault, got none; first: no task"),
    ],
)
def test_a_file_without_a_sound_task_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match="c.json: ") as error:
        read_task_files(write(tmp_path / "c.json", content))
    assert message in str(error.value)


def test_a_file_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="must be a readable file or folder of tasks: No such file"):
        read_task_files(tmp_path / "c.json")


def test_a_new_task_begins_as_the_known_one_that_explains_it_best(tmp_path):
    """A task of the training finds its own embedding: no other one predicts its demonstrations better."""
    folder, item = save_model(tmp_path / "m"), puzzle(FLIP)
    model, number = load_with_new_task(folder, item)
    known = load_model(folder).model
    batch = demonstration_batch(item, 0, True)
    losses = [demonstration_loss(known, batch, task) for task in range(3)]
    embeddings = model.state_dict()["embed_tasks.weight"]
    mean = embeddings[:3].mean(0)
    assert number == 3 and len(set(losses)) == 3
    best = min(losses)
    model.state_dict()["embed_tasks.weight"][0] = mean
    best = min(best, demonstration_loss(model, batch, 0))
    assert demonstration_loss(model, batch, number) == pytest.approx(best)


def test_the_known_tasks_of_a_model_stay_as_they_are(tmp_path):
    folder, item = save_model(tmp_path / "m"), puzzle(GROW)
    model, _ = load_with_new_task(folder, item)
    weights, known = model.state_dict(), load_model(folder).model.state_dict()
    assert torch.equal(weights.pop("embed_tasks.weight")[:3], known.pop("embed_tasks.weight"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in known.items())


def test_the_files_of_a_folder_say_how_its_model_solves(tmp_path):
    folder = save_model(tmp_path / "m")
    (tmp_path / "hf").mkdir()
    write(tmp_path / "hf" / "config.json", {"model_type": "llama"})
    assert find_solver(folder).function is solve_with_grid_model
    assert find_solver(tmp_path / "hf").function is solve_with_text_model
    key = find_solver(folder).key
    assert find_solver(folder).key == key != find_solver(tmp_path / "hf").key
    with pytest.raises(CheckpointError, match="must be a folder with model.json of a recipe or config.json of Hugging Face"):
        find_solver(tmp_path)


def test_a_new_task_is_learned_from_its_demonstrations(tmp_path):
    """The test output does not reach the function: the puzzle is that of a challenges file."""
    folder = save_model(tmp_path / "m")
    (item,) = read_task_files(write(tmp_path / "a.json", FLIP)).puzzles.values()
    receiver, sender = Pipe(duplex=False)
    channel = TaskChannel(sender, time.monotonic() + 60)
    outcome = solve_with_grid_model(FolderTask(item, folder, 2, "full", "cpu"), channel)
    assert outcome.num_steps > 0 and outcome.last_loss < outcome.first_loss and outcome.max_weight_change > 0
    assert receiver.recv()[0] == "answer" and find_grid_fault(outcome.answer[0][0]) is None


def test_a_model_of_another_kind_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 8}
    model = GPT.build(GPTConfig(**sizes), 21)
    files = {"model.json": ModelMetadata("gpt", sizes, 21, 64).to_json()}
    save_checkpoint(tmp_path / "m", Checkpoint({"model": model.state_dict()}, {}), files)
    with pytest.raises(CheckpointError, match="must be a model with arch grid_transformer, got gpt"):
        load_with_new_task(tmp_path / "m", puzzle(FLIP))
