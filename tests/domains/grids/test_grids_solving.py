"""Test what a model solves with votes of views, on a rule that is known by construction: turn a grid by 180 degrees."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.domains.grids.content.puzzle import encode_puzzle
from provenlm.domains.grids.content.symmetries import draw_views
from provenlm.domains.grids.evaluate import solving
from provenlm.domains.grids.evaluate.config import GridsEvalConfig
from provenlm.domains.grids.evaluate.spec import SPEC
from provenlm.domains.grids.evaluate.submission import most_frequent_attempts
from provenlm.domains.grids.scrape.spec import FolderSource
from provenlm.domains.grids.tokenize.grid_batches import IGNORE, grid_sequences, make_batch, query_sequences
from provenlm.domains.grids.tokenize.grid_tokenizer import load_grid_tokenizer
from tests.contexts import make_untrained_context
from tests.domains.grids.puzzles import make_dataset, puzzle, random_puzzle, scrape, write_folder


def turned(seed, hidden=False):
    """Return a puzzle whose outputs are the inputs turned by 180 degrees, which no symmetry changes."""
    task = json.loads(encode_puzzle(random_puzzle(seed)))
    for pair in [*task["train"], *task["test"]]:
        pair["output"] = [row[::-1] for row in pair["input"][::-1]]
    solution = np.array(task["test"][0]["output"])
    if hidden:
        del task["test"][0]["output"]
    return puzzle(task, f"{seed:08x}"), solution


class Turner(nn.Module):
    """Give the opposite cell of an input the highest logit; wrong in the symmetries of `blind`."""

    def __init__(self, blind=()):
        super().__init__()
        self.anchor, self.blind, self.batches = nn.Parameter(torch.zeros(1)), blind, []

    def forward(self, batch):
        self.batches.append(batch)
        logits_BTC = torch.zeros(*batch.inputs_BT.shape, 10)
        for b, symmetry in enumerate(batch.symmetries_B.tolist()):
            cells_T3, is_query_T = batch.coords_BT3[b], batch.is_query_BT[b]
            last_2 = cells_T3[is_query_T, :2].amax(0)
            colors = {tuple(cell[:2]): color for cell, color in zip(cells_T3.tolist(), batch.inputs_BT[b].tolist(), strict=True)}
            for t in is_query_T.nonzero()[:, 0].tolist():
                color = colors[tuple((last_2 - cells_T3[t, :2]).tolist())]
                logits_BTC[b, t, (color + 1) % 10 if symmetry in self.blind else color] = 5.0 - b / 1000
        return logits_BTC


def solve(model, item, **fields):
    settings = {"in_place": True, "num_views": 16, "seed": 0, **fields}
    return solving.solve_puzzle(lambda batch: model(batch).log_softmax(-1), item, 0, **settings)


@pytest.mark.parametrize("cells", [solving.CELLS_PER_BATCH, 30])
def test_all_views_agree_on_a_rule_that_no_symmetry_changes(cells, monkeypatch):
    monkeypatch.setattr(solving, "CELLS_PER_BATCH", cells)
    item, solution = turned(1, hidden=True)
    model = Turner()
    (result,) = solve(model, item)
    assert np.array_equal(result.voted[0], solution) and np.array_equal(result.single[0], solution)
    assert (result.num_votes, result.num_leaky) == (16, 0)
    assert len(result.voted) == len(result.single) == 2 and not np.array_equal(result.voted[1], solution)
    assert sum(batch.num_sequences for batch in model.batches) == 16 and (len(model.batches) > 1) == (cells == 30)


def test_a_vote_repairs_what_the_single_view_gets_wrong():
    item, solution = turned(2, hidden=True)
    (result,) = solve(Turner(blind=(0, 3)), item)
    assert not any(np.array_equal(grid, solution) for grid in result.single)
    assert np.array_equal(result.voted[0], solution) and result.num_votes == 12


def test_only_the_symmetries_of_the_training_are_shown():
    item, _ = turned(1, hidden=True)
    model = Turner()
    solve(model, item, num_views=8, symmetries=(0,))
    assert model.batches[0].symmetries_B.tolist() == [0] * 8
    assert len({tuple(row) for row in model.batches[0].inputs_BT.tolist()}) == 8


def test_a_view_that_carries_the_answer_is_found():
    item, solution = turned(3, hidden=True)
    for in_place in (True, False):
        batch = make_batch(query_sequences(item, 0, [solution.shape], in_place))
        views = draw_views(item, 4, 0)
        shown = solving.show_views(batch, views)
        assert solving.find_leaky_views(shown, batch, views) == []
        targets_BT, inputs_BT = torch.full_like(shown.targets_BT, IGNORE), shown.inputs_BT.clone()
        targets_BT[1, -1] = 2
        assert solving.find_leaky_views(replace(shown, targets_BT=targets_BT), batch, views) == [1]
        inputs_BT[2, -1] = (inputs_BT[2, -1] + 1) % 10
        assert solving.find_leaky_views(replace(shown, inputs_BT=inputs_BT), batch, views) == [2]


def test_the_most_frequent_colour_fills_the_predicted_size():
    item = puzzle({"train": [{"input": [[1, 2]], "output": [[7, 7], [1, 7]]}], "test": [{"input": [[3, 3]]}]})
    assert [grid.tolist() for (grid,) in most_frequent_attempts(item)] == [[[7, 7], [7, 7]]]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A corpus with two reported tasks, of which the turner solves the first, and a training that shows symmetries."""
    root = tmp_path_factory.mktemp("solving")
    tasks = {f"evaluation/{n:08x}": json.loads(encode_puzzle(item)) for n, item in ((1, turned(1)[0]), (2, random_puzzle(2)))}
    write_folder(root / "tasks", tasks)
    records = [result.record for result in scrape(FolderSource("folder", str(root / "tasks")))]
    dataset, _ = make_dataset(records, root / "tokens")
    batch = grid_sequences(dataset.train, dataset, 64, in_place=True).get_batch(np.arange(4))
    shown = replace(batch, symmetries_B=torch.arange(4))
    tokenizer = load_grid_tokenizer(root / "tokens" / "tokenizer")
    return make_untrained_context(Turner(), tokenizer, dataset, 64, train_batch=lambda num_sequences: shown)


def test_the_probe_records_scores_a_submission_and_pictures(context):
    config = GridsEvalConfig(color_permutations=1, num_examples=1)
    unmet = SPEC.conditions(config, context)
    assert (unmet["reported_tasks"], unmet["output_cells"]) == (None, None)
    metrics, probe = MetricRecorder(), SPEC.probes(config)["solving"]
    probe.run(context, metrics)
    values = {name: metric.value for name, metric in metrics.metrics.items()}
    assert probe.checks.keys() <= values.keys()
    assert values["pass_at_1.outputs"] == values["pass_at_2.task_mean"] == values["single_view.pass_at_2.whole_tasks"] == 0.5
    assert (values["num_views"], values["leaky_views"], values["submission_faults"]) == (8, 0, 0)
    assert min(values.values()) == 0, "no interval begins below 0"
    assert metrics.tables[0].rows == [("00000001", 1, 1, 8), ("00000002", 1, 0, 8)]
    assert [example.name for example in metrics.examples] == ["solved-1", "unsolved-1", "submission"]
    submission = json.loads(metrics.examples[-1].files[".json"])
    assert submission["00000001"][0]["attempt_1"] == turned(1)[1].tolist() and submission.keys() == {"00000001", "00000002"}
    assert metrics.examples[0].files[".svg"].startswith(b"<svg")


def test_a_recipe_without_pairs_does_not_apply(context):
    tokens = replace(context, train_batch=lambda num_sequences: SimpleNamespace())
    assert "trains on streams of tokens" in SPEC.conditions(GridsEvalConfig(), tokens)["output_cells"]


@pytest.mark.parametrize("name", ["color_permutations", "num_examples"])
def test_a_config_that_cannot_work_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= "):
        GridsEvalConfig(**{name: -1})
