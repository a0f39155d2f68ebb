"""Test size rules, scores, submissions, pictures and the probes of puzzles."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import DataError
from provenlm.domains.grids.content.puzzle import encode_task, to_grid
from provenlm.domains.grids.evaluate import palette, scoring
from provenlm.domains.grids.evaluate.config import GridsEvalConfig
from provenlm.domains.grids.evaluate.size_rules import predict_sizes
from provenlm.domains.grids.evaluate.solutions import read_reported_tasks, read_solutions
from provenlm.domains.grids.evaluate.spec import SPEC
from provenlm.domains.grids.evaluate.submission import (
    complete_attempts,
    encode_submission,
    find_submission_faults,
    read_submission,
)
from provenlm.domains.grids.tokenize.grid_tokenizer import load_grid_tokenizer
from provenlm.scraping.sources.folder import FolderSource
from tests.contexts import make_untrained_context
from tests.domains.grids.puzzles import FLIP, GROW, make_dataset, official_puzzles, puzzle, scrape, write_folder

RIGHT, WRONG = to_grid([[1, 2]]), to_grid([[2, 1]])


@pytest.mark.parametrize(
    ("collection", "split", "expected"),
    [("arc1", "training", (367, 416)), ("arc1", "evaluation", (369, 419))],
)
def test_the_size_rules_reach_the_published_counts(collection, split, expected):
    pairs = [
        (prediction.size, pair.output.shape)
        for key, item in official_puzzles(collection).items()
        if key.startswith(split)
        for prediction, pair in zip(predict_sizes(item), item.test, strict=True)
    ]
    assert (sum(size == shape for size, shape in pairs), len(pairs)) == expected


def sized(*sizes, inputs=None):
    """Return a puzzle whose pairs have the given (input size, output size); the last is the test pair."""
    pairs = [
        {"input": np.ones(size, int).tolist() if inputs is None else inputs[n], "output": np.ones(output, int).tolist()}
        for n, (size, output) in enumerate(sizes)
    ]
    return puzzle({"train": pairs[:-1], "test": pairs[-1:]})


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ([((2, 3), (2, 3)), ((4, 4), (4, 4)), ((1, 5), (1, 5))], "same"),
        ([((2, 3), (3, 3)), ((4, 5), (3, 3)), ((1, 7), (3, 3))], "constant"),
        ([((2, 3), (4, 9)), ((1, 2), (2, 6)), ((3, 3), (6, 9))], "ratio"),
        ([((4, 6), (2, 3)), ((2, 8), (1, 4)), ((6, 6), (3, 3))], "ratio"),
        ([((2, 3), (3, 2)), ((4, 1), (1, 4)), ((1, 5), (5, 1))], "transposed"),
        ([((3, 3), (1, 2)), ((4, 5), (2, 4)), ((6, 6), (4, 5))], "difference"),
    ],
)
def test_each_size_rule_is_fitted_on_demonstrations_alone(sizes, rule):
    (prediction,) = predict_sizes(sized(*sizes))
    assert prediction == (rule, sizes[-1][1])
    (hidden,) = predict_sizes(replace(sized(*sizes), test=(replace(sized(*sizes).test[0], output=None),)))
    assert hidden == prediction


def test_counts_of_colours_and_cells_give_sizes():
    inputs = [[[0, 1, 2]], [[0, 1, 1]], [[1, 2, 3]]]
    sizes = [((1, 3), (2, 6)), ((1, 3), (1, 3)), ((1, 3), (3, 9))]
    assert predict_sizes(sized(*sizes, inputs=inputs)) == [("times_colors_but_0", (3, 9))]
    sizes = [((1, 3), (1, 2)), ((1, 3), (1, 1)), ((1, 3), (1, 3))]
    assert predict_sizes(sized(*sizes, inputs=[[[0, 4, 4]], [[0, 0, 1]], [[1, 2, 2]]])) == [("row_of_colored_cells", (1, 3))]


def test_without_a_rule_the_size_of_the_input_stays_and_sides_are_legal():
    assert predict_sizes(sized(((2, 2), (3, 3)), ((3, 3), (3, 5)), ((4, 1), (1, 1)))) == [("", (4, 1))]
    assert predict_sizes(sized(((4, 4), (1, 1)), ((5, 5), (2, 2)), ((2, 2), (1, 1)))) == [("difference", (1, 1))]


def test_the_three_conventions_differ_on_tasks_with_several_outputs():
    """Two tasks: one of four outputs, three solved at the second attempt; one of one output, solved at the first."""
    solutions = {"a": [RIGHT] * 4, "b": [RIGHT]}
    attempts = {"a": [[WRONG, RIGHT]] * 3 + [[WRONG, WRONG, RIGHT]], "b": [[RIGHT, WRONG]]}
    first, second = (scoring.score_attempts(attempts, solutions, number) for number in (1, 2))
    assert [score.outputs.value for score in (first, second)] == [1 / 5, 4 / 5]
    assert [score.task_mean.value for score in (first, second)] == [1 / 2, (3 / 4 + 1) / 2]
    assert [score.whole_tasks.value for score in (first, second)] == [1 / 2, 1 / 2]
    for interval in (first.outputs, second.task_mean, second.whole_tasks):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1 and interval.low < interval.high


def test_a_grid_counts_only_if_every_cell_and_the_shape_are_equal():
    solved = scoring.find_solved(
        {"a": [[RIGHT.T], [RIGHT]], "c": [[RIGHT]]}, {"a": [RIGHT, RIGHT, None], "b": [RIGHT], "d": [None]}, 2
    )
    assert solved == {"a": (False, True), "b": (False,)}
    with pytest.raises(ValueError, match="at least one output"):
        scoring.score_attempts({}, {"d": [None]})


def test_scores_are_recorded_with_and_without_duplicates():
    recorder = MetricRecorder()
    scoring.record_scores(recorder, {"a": [[RIGHT]], "b": [[WRONG]]}, {"a": [RIGHT], "b": [RIGHT]}, frozenset({"a"}), "x")
    values = {name: metric.value for name, metric in recorder.metrics.items()}
    assert (values["pass_at_2.outputs"], values["pass_at_2.outputs.no_duplicates"]) == (0.5, 0.0)
    assert len(values) == 2 * 3 * 2 * 3


PUZZLES = {"a": puzzle(FLIP, "a"), "b": puzzle(GROW, "b")}


@pytest.mark.parametrize(
    "attempts",
    [
        {},
        {"a": []},
        {"a": [[RIGHT]], "b": [[], [WRONG]]},
        {"a": [[np.full((40, 2), 3)]], "b": [["x"], [np.array([[11]])]]},
        {"z": [[RIGHT]]},
    ],
)
def test_a_submission_is_complete_and_valid_whatever_there_is(tmp_path, attempts):
    (tmp_path / "submission.json").write_bytes(encode_submission(PUZZLES, attempts))
    submission = json.loads((tmp_path / "submission.json").read_text())
    assert find_submission_faults(submission, PUZZLES) == []
    assert {task_id: len(outputs) for task_id, outputs in submission.items()} == {"a": 1, "b": 2}


def test_a_submission_keeps_two_attempts_in_order(tmp_path):
    (tmp_path / "s.json").write_bytes(encode_submission(PUZZLES, {"a": [[RIGHT, WRONG, RIGHT]]}))
    ((first, second),) = read_submission(tmp_path / "s.json", PUZZLES)["a"]
    assert np.array_equal(first, RIGHT) and np.array_equal(second, WRONG)
    completed = complete_attempts(PUZZLES, {"a": [[RIGHT]]})
    assert np.array_equal(completed["a"][0][1], RIGHT)
    assert completed["b"][0][0].tolist() == [[7, 0], [0, 0], [0, 0], [0, 0]], "the input, filled to twice the size"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s: s.pop("a"), "a: must have 1 outputs"),
        (lambda s: s["b"].pop(), "b: must have 2 outputs"),
        (lambda s: s["a"][0].pop("attempt_2"), "a: output 0 must have attempt_2"),
        (
            lambda s: s["a"][0].update(attempt_1=[[1, 2], [3]]),
            "a: attempt_1 of output 0 must be a grid, got one with the fault not_rectangular",
        ),
        (lambda s: s.update(z=[]), "z: is no task"),
    ],
)
def test_each_planted_fault_of_a_submission_is_named(tmp_path, change, fault):
    (tmp_path / "s.json").write_bytes(encode_submission(PUZZLES, {}))
    submission = json.loads((tmp_path / "s.json").read_text())
    change(submission)
    assert find_submission_faults(submission, PUZZLES) == [fault]
    (tmp_path / "s.json").write_text(json.dumps(submission))
    with pytest.raises(DataError, match=r"s.json: .*; 1 faults in all"):
        read_submission(tmp_path / "s.json", PUZZLES)
    assert find_submission_faults([], PUZZLES) and palette.PALETTE


def test_pictures_have_the_official_colours_and_one_cell_for_each_cell():
    picture = ET.fromstring(palette.draw_content(encode_task(FLIP)))
    rects = [rect for rect in picture.iter() if rect.tag.endswith("rect")]
    area = sum(int(rect.get("width")) * int(rect.get("height")) for rect in rects) / palette.CELL**2
    assert area == 6 + 6 + 2 + 2 + 4 + 4 and {rect.get("fill") for rect in rects} <= set(palette.PALETTE)
    assert len(palette.PALETTE) == len(set(palette.PALETTE)) == 10
    with pytest.raises(DataError):
        SPEC.formats[".svg"](b"[]")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus in which evaluation task 02 is a copy of a training task that was not dropped."""
    root = tmp_path_factory.mktemp("corpus")
    write_folder(
        root / "tasks",
        {"training/01": FLIP, "evaluation/02": FLIP, "evaluation/03": {**FLIP, "train": GROW["train"], "test": GROW["test"][:1]}},
    )
    records = [result.record for result in scrape(FolderSource("folder", str(root / "tasks")))]
    dataset, _ = make_dataset(records, root / "tokens")
    return dataset, load_grid_tokenizer(root / "tokens" / "tokenizer")


def test_reported_tasks_are_read_with_their_solutions(corpus):
    tasks = read_reported_tasks(corpus[1])
    assert list(tasks.puzzles) == ["02", "03"] and tasks.num_outputs == 2 and tasks.duplicated == {"02"}
    assert tasks.puzzles["02"].test[0].output is None and tasks.solutions["02"][0].tolist() == FLIP["test"][0]["output"]
    assert tasks.task_numbers == {"02": 0, "03": 1}


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": [[[1], [2, 3]]]}'])
def test_damaged_solutions_are_named(tmp_path, content):
    (tmp_path / "solutions.json").write_text(content)
    with pytest.raises(DataError, match="solutions.json: "):
        read_solutions(tmp_path / "solutions.json")


def test_the_probes_measure_the_baselines(corpus):
    dataset, tokenizer = corpus
    context = make_untrained_context(nn.Linear(1, 1), tokenizer, dataset, 8)
    assert SPEC.conditions(GridsEvalConfig(), context)["reported_tasks"] is None
    values, probes = {}, SPEC.probes(GridsEvalConfig())
    for name in ("reported_tasks", "baselines"):
        probe = probes[name]
        recorder = MetricRecorder()
        probe.run(context, recorder)
        assert probe.checks.keys() <= recorder.metrics.keys()
        values[name] = {key: metric.value for key, metric in recorder.metrics.items()}
    assert values["reported_tasks"] == {"tasks": 2, "outputs": 2, "duplicated": 1, "hidden": 1.0}
    assert values["baselines"]["size_rules.correct"] == 1.0
    assert values["baselines"]["copy.pass_at_2.outputs"] == values["baselines"]["most_frequent_color.pass_at_2.outputs"] == 0.0


def test_without_a_grid_tokenizer_the_probes_do_not_apply(corpus):
    context = make_untrained_context(nn.Linear(1, 1), SimpleNamespace(), corpus[0], 8)
    assert "no task of the corpus is reported" in SPEC.conditions(GridsEvalConfig(), context)["reported_tasks"]
