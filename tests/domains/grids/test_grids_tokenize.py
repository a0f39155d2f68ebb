"""Test tokens of puzzles, batches of pairs with coordinates, and their augmentation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from provenlm.core.errors import ConfigError, DataError
from provenlm.core.records import Record
from provenlm.domains.grids.content.puzzle import encode_puzzle, encode_task
from provenlm.domains.grids.content.symmetries import GridView, apply_symmetry
from provenlm.domains.grids.tokenize import augmentation
from provenlm.domains.grids.tokenize.batch_config import GridAugmentationConfig
from provenlm.domains.grids.tokenize.grid_batches import (
    IGNORE,
    CellSequence,
    grid_sequences,
    make_batch,
    query_sequences,
    read_puzzles,
)
from provenlm.domains.grids.tokenize.grid_tokenizer import (
    FIRST_TASK,
    INPUT,
    MASK,
    OUTPUT,
    PAD,
    ROW,
    TEST_INPUT,
    GridTokenizer,
    load_grid_tokenizer,
    train_grid_tokenizer,
)
from provenlm.domains.grids.tokenize.spec import SPEC
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader
from tests.domains.grids.puzzles import FLIP, GROW, make_dataset, puzzle, random_puzzle


def make_record(item, **metadata):
    names = {"task_id": item.id, "collection": item.collection, "split": item.split}
    return Record.from_content(encode_puzzle(item), "application/json", f"{item.id}", **names, **metadata)


RECORDS = [make_record(puzzle(FLIP, "a")), make_record(puzzle(GROW, "b"))]
RECORDS += [make_record(random_puzzle(seed, same_size=seed % 2 == 0)) for seed in range(6)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_dataset(RECORDS, tmp_path_factory.mktemp("grids"))


def config(**batches):
    return TrainConfig(
        max_steps=10,
        lr_schedule=TrainConfig(max_steps=1000).lr_schedule.__class__(warmup_steps=1),
        eval=None,
        seq_len=64,
        batches=batches,
    )


def test_a_puzzle_is_rows_between_markers():
    tokenizer = train_grid_tokenizer(RECORDS)
    (ids,) = tokenizer.encode(RECORDS[:1])
    expected = [FIRST_TASK, INPUT, 1, 2, 0, ROW, 0, 0, 3, ROW, OUTPUT, 0, 2, 1, ROW, 3, 0, 0, ROW]
    assert ids[: len(expected)].tolist() == expected
    assert ids[-13:].tolist() == [TEST_INPUT, 5, 6, ROW, 0, 0, ROW, OUTPUT, 6, 5, ROW, 0, 0, ROW][1:]
    assert tokenizer.vocab_size == FIRST_TASK + len(RECORDS)


def test_decoding_gives_the_bytes_of_the_content():
    tokenizer = train_grid_tokenizer(RECORDS)
    for record, ids in zip(RECORDS, tokenizer.encode(RECORDS), strict=True):
        assert tokenizer.decode(ids.tolist()) == record.content
        assert tokenizer.count_unknown(ids) == 0


def test_any_tokens_can_be_decoded():
    """A model writes rows of different lengths, and outputs without inputs."""
    tokenizer, generator = train_grid_tokenizer(RECORDS), np.random.default_rng(0)
    for _ in range(300):
        json.loads(tokenizer.decode(generator.integers(0, tokenizer.vocab_size, 40).tolist()))
    assert json.loads(tokenizer.decode([OUTPUT, 1, ROW, INPUT, 1, 2, ROW, 3, ROW]))["train"] == [
        {"output": [[1]]},
        {"input": [[1, 2], [3]]},
    ]


def test_prompts_are_files_or_json_and_are_parsed_only(tmp_path):
    tokenizer = train_grid_tokenizer(RECORDS)
    (tmp_path / "a.json").write_bytes(encode_task(FLIP))
    ids = tokenizer.encode_prompt(str(tmp_path / "a.json"))
    assert ids == tokenizer.encode_prompt(json.dumps(FLIP)) and tokenizer.decode(ids) == encode_task(FLIP)
    for text in ("__import__('os').system('true')", str(tmp_path / "b.json")):
        with pytest.raises(DataError):
            tokenizer.encode_prompt(text)
    assert tokenizer.describe(ids).startswith("Input\n120\n003\nOutput\n021\n300\n")


def test_a_saved_tokenizer_is_loaded_with_its_folder(tmp_path):
    tokenizer = train_grid_tokenizer(RECORDS)
    tokenizer.save(tmp_path)
    loaded = load_grid_tokenizer(tmp_path)
    assert (loaded.task_keys, loaded.vocab_size, loaded.folder) == (tokenizer.task_keys, tokenizer.vocab_size, tmp_path)
    assert loaded.encode(RECORDS)[3].tolist() == tokenizer.encode(RECORDS)[3].tolist()
    assert {name: len(ids) for name, ids in loaded.token_classes.items()} == {
        "Color": 10, "Mask": 1, "Row": 1, "Input": 1, "Output": 1, "TestInput": 1, "Task": len(RECORDS),
    }  # fmt: skip
    (tmp_path / "metadata.json").write_text('{"type": "miditok"}')
    with pytest.raises(DataError, match="type must be 'arc_grids', got 'miditok'"):
        load_grid_tokenizer(tmp_path)


def test_solutions_are_saved_apart_and_a_repeated_id_is_refused(tmp_path):
    challenge = {"train": FLIP["train"], "test": [{"input": FLIP["test"][0]["input"]}]}
    solutions = [FLIP["test"][0]["output"]]
    record = make_record(puzzle(challenge, "a", split="evaluation"), reported=True, solutions=solutions)
    train_grid_tokenizer([record]).save(tmp_path)
    assert json.loads((tmp_path / "solutions.json").read_text()) == {"a": solutions}
    with pytest.raises(DataError, match="id must be unique among the reported tasks"):
        train_grid_tokenizer([record, make_record(puzzle(challenge, "a", "d"), reported=True, solutions=solutions)])


def test_every_visible_pair_is_a_sequence(corpus):
    dataset, _ = corpus
    sequences = grid_sequences(dataset.train, dataset, 64, in_place=True)
    visible = [pair for item in read_puzzles(dataset.train, dataset).values() for pair in item.pairs if pair.output is not None]
    assert len(sequences) == len(visible) == 2 * 3 + 6 * 3
    with pytest.raises(ConfigError, match=r"train.seq_len must be >= \d+, the cells of the largest pair, got 8"):
        grid_sequences(dataset.train, dataset, 8, in_place=True)


def test_a_batch_holds_cells_with_coordinates(corpus):
    dataset, _ = corpus
    batch = grid_sequences(dataset.train, dataset, 64, in_place=True).get_batch(np.array([1, 3]))
    assert batch.inputs_BT.tolist() == [[4, 0, PAD, PAD, PAD], [1, MASK, MASK, MASK, MASK]]
    assert batch.targets_BT.tolist() == [[0, 4, IGNORE, IGNORE, IGNORE], [IGNORE, 1, 1, 1, 1]]
    assert batch.coords_BT3[0].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert batch.coords_BT3[1].tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert batch.is_query_BT.tolist() == [[True, True, False, False, False], [False, True, True, True, True]]
    assert batch.tasks_B.tolist() == [0, 1] and batch.is_in_place.tolist() == [True, False]
    assert (batch.num_sequences, batch.seq_len, batch.num_targets) == (2, 5, 6)
    assert batch.select(slice(1, 2)).inputs_BT.tolist() == [[1, MASK, MASK, MASK, MASK]]


def test_without_in_place_every_output_has_a_plane(corpus):
    dataset, _ = corpus
    sequences = grid_sequences(dataset.train, dataset, 64, in_place=False)
    batch = sequences.get_batch(np.arange(len(sequences)))
    assert not batch.is_in_place.any() and (batch.coords_BT3[batch.is_query_BT][:, 2] == 1).all()


def read_outputs(batch, colors_BT):
    """Return the grids that `colors_BT` gives at the cells to predict."""
    grids = []
    for colors_T, coords_T3, is_query_T in zip(colors_BT, batch.coords_BT3, batch.is_query_BT, strict=True):
        x, y = coords_T3[is_query_T, 0].numpy(), coords_T3[is_query_T, 1].numpy()
        grid = np.zeros((int(y.max()) + 1, int(x.max()) + 1), np.uint8)
        grid[y, x] = colors_T[is_query_T].numpy()
        grids.append(grid)
    return grids


@pytest.mark.parametrize("symmetry", range(8))
@pytest.mark.parametrize("in_place", [True, False])
def test_a_symmetry_of_coordinates_is_the_symmetry_of_the_grids(symmetry, in_place):
    pairs = [random_puzzle(seed, same_size=in_place).train[0] for seed in range(3)]
    batch = make_batch(
        [CellSequence.create(n, pair.input, pair.output, pair.output.shape, in_place) for n, pair in enumerate(pairs)]
    )
    view = augmentation.apply_symmetries(batch, torch.full((3,), symmetry))
    outputs = read_outputs(view, view.targets_BT)
    assert all(np.array_equal(output, apply_symmetry(pair.output, symmetry)) for output, pair in zip(outputs, pairs, strict=True))
    inputs = read_outputs(view.map(lambda tensor: tensor), view.inputs_BT) if in_place else None
    assert inputs is None or all(
        np.array_equal(grid, apply_symmetry(p.input, symmetry)) for grid, p in zip(inputs, pairs, strict=True)
    )
    assert view.symmetries_B.tolist() == [symmetry] * 3 and (view.coords_BT3[batch.inputs_BT == PAD] == 0).all()


def test_colours_of_inputs_and_targets_are_permuted_alike():
    pair = random_puzzle(0).train[0]
    batch = make_batch([CellSequence.create(0, pair.input, pair.output, pair.output.shape, False)])
    view = GridView(0, (0, 2, 1, 3, 4, 5, 6, 7, 9, 8))
    recoloured = augmentation.apply_colors(batch, torch.tensor([view.colors]))
    expected = make_batch([CellSequence.create(0, view.apply(pair.input), view.apply(pair.output), pair.output.shape, False)])
    assert torch.equal(recoloured.inputs_BT, expected.inputs_BT) and torch.equal(recoloured.targets_BT, expected.targets_BT)


def test_predictions_of_a_view_are_mapped_back():
    item = puzzle(GROW)
    view = GridView(3, (0, 4, 5, 6, 1, 2, 3, 9, 8, 7))
    seen = view.apply_to_puzzle(item)
    batch = make_batch(query_sequences(seen, 0, [(2, 4), (2, 2)], in_place=True))
    assert batch.num_targets == 0 and batch.is_query_BT.sum() == 12
    colors_BT = torch.where(batch.is_query_BT, torch.arange(batch.seq_len) % 10, 0)
    (first, second) = [view.invert(grid) for grid in read_outputs(batch, colors_BT)]
    assert first.shape == (4, 2) and second.shape == (2, 2)
    assert np.array_equal(view.apply(first).ravel(), colors_BT[0][batch.is_query_BT[0]].numpy())


def test_training_batches_are_augmented_by_draw_alone(corpus):
    dataset, _ = corpus
    loader = build_dataloader(dataset, config(), SPEC)
    first, again = loader.batch_at(0, 8), loader.batch_at(0, 8)
    original = loader.sequence_batch(0, 8)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in ("inputs_BT", "coords_BT3", "symmetries_B"))
    assert torch.equal(loader.batch_at(4, 4).targets_BT[:, :1], first.select(slice(4, 8)).targets_BT[:, :1])
    assert not torch.equal(first.coords_BT3, original.coords_BT3) and torch.equal(first.tasks_B, original.tasks_B)
    plain = build_dataloader(dataset, config(augmentation=None), SPEC)
    assert plain.augmentation is None and torch.equal(plain.batch_at(0, 8).coords_BT3, original.coords_BT3)


def test_augmentation_counts_its_views(corpus):
    dataset, _ = corpus
    full = augmentation.build_augmentation(dataset, GridAugmentationConfig(), 0)
    assert full.num_variants == 8 * 362_880
    assert augmentation.build_augmentation(dataset, GridAugmentationConfig(colors=False), 0).num_variants == 8
    assert augmentation.build_augmentation(dataset, GridAugmentationConfig(False, False), 0) is None


def test_the_layout_tokens_gives_next_token_batches(corpus):
    dataset, _ = corpus
    assert SPEC.sequences(dataset.train, dataset, SimpleNamespace(batches={"layout": "tokens"}, seq_len=64)) is None
    assert SPEC.augmentation(dataset, SimpleNamespace(batches={"layout": "tokens"}, seq_len=64, seed=0)) is None
    batch = build_dataloader(dataset, config(layout="tokens"), SPEC).batch_at(0, 2)
    assert batch.inputs_BT.shape == (2, 64)


def test_an_unknown_key_of_batches_is_named(corpus):
    dataset, _ = corpus
    with pytest.raises(ConfigError, match="train.batches"):
        build_dataloader(dataset, config(layouts="pairs"), SPEC)


def test_a_task_that_was_not_trained_on_has_no_task_token():
    tokenizer = GridTokenizer([], [])
    assert tokenizer.encode(RECORDS[:1])[0][0] == INPUT and "Task" not in tokenizer.token_classes
