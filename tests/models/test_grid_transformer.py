"""Test the grid transformer: size, padding, neighbours, positions, copy bias, loss, adapters and a first training."""

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from provenlm.core import config as core_config
from provenlm.core.errors import ConfigError
from provenlm.domains.grids.tokenize.grid_tokenizer import MASK, PAD
from provenlm.models.common.layers.rotary import apply_rotary_emb
from provenlm.models.common.spec import CAPABILITIES, capabilities, complete_model, resolve_model
from provenlm.models.grid_transformer import positions
from provenlm.models.grid_transformer.blocks import NeighborMixing
from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.losses import objectives, output_cell_loss
from provenlm.models.grid_transformer.model import (
    NUM_COLORS,
    PADDING,
    QUERY,
    VOCAB_SIZE,
    build_grid_transformer,
    flops_per_token,
    num_params,
)
from provenlm.models.grid_transformer.spec import SPEC
from tests.models.grid_cases import IGNORE, TINY, grid_cells, make_batch, make_model, random_batch, random_grid


def count(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in SPEC.build(config, VOCAB_SIZE).parameters())


def layout_of(cells):
    """Lay out one sequence of cells (token, row, column, plane)."""
    coords_BT3 = torch.tensor(cells)[None, :, [2, 1, 3]]
    return positions.lay_out_cells(torch.ones(coords_BT3.shape[:2], dtype=torch.bool), coords_BT3, 8, 100.0)


@pytest.mark.parametrize(("recipe", "expected"), [("arc_joint", 800_897), ("arc_large", 75_596_545)])
def test_the_recipes_have_0_8_and_75_6_million_parameters(recipe, expected):
    """Without a number of tasks, there is one embedding of a task."""
    params = core_config.load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    config = resolve_model(params.entry("recipes", recipe)["model"], recipe).model_config
    assert num_params(config, VOCAB_SIZE)["total"] == count(config) == expected


@pytest.mark.parametrize("config", [TINY, replace(TINY, num_tasks=None), replace(TINY, hidden_size=24, num_hidden_layers=1)])
def test_the_closed_form_counts_every_parameter(config):
    parts = num_params(config, VOCAB_SIZE)
    assert sum(number for part, number in parts.items() if part not in ("total", "active")) == parts["total"] == count(config)


def test_flops_are_those_that_torch_counts_without_neighbours():
    """Torch counts matrix products, and on a CPU no attention."""
    model, batch = build_grid_transformer(TINY, VOCAB_SIZE), make_batch([(random_grid(5, 6, 0), random_grid(5, 6, 1))])
    with FlopCounterMode(display=False) as counter:
        output_cell_loss(model, IGNORE, batch)["loss"].backward()
    neighbours = 6 * 9 * TINY.hidden_size * TINY.num_hidden_layers
    assert flops_per_token(TINY, VOCAB_SIZE, 0) - neighbours == pytest.approx(counter.get_total_flops() / 30, rel=0.02)


def test_padding_changes_no_logit_and_no_gradient():
    model, results = make_model(), []
    for batch in (random_batch(), random_batch(width=40)):
        loss = output_cell_loss(model, IGNORE, batch)["loss"]
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append((model(batch)[:, : random_batch().seq_len], loss, *gradients))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-4)


def test_a_sequence_alone_has_the_logits_that_it_has_among_others():
    model, batch = make_model(), random_batch()
    together = model(batch)
    for b in range(3):
        length = int((batch.inputs_BT[b] != PADDING).sum())
        alone = model(batch.select(slice(b, b + 1)).map(lambda tensor, n=length: tensor[:, :n] if tensor.ndim > 1 else tensor))
        torch.testing.assert_close(alone[0], together[b, :length], atol=1e-5, rtol=1e-4)


def test_logits_do_not_depend_on_the_order_of_cells():
    model, batch = make_model(), random_batch()
    order = torch.randperm(batch.seq_len, generator=torch.Generator().manual_seed(0))
    shuffled = batch.map(lambda tensor: tensor[:, order] if tensor.ndim > 1 else tensor)
    torch.testing.assert_close(model(shuffled), model(batch)[:, order], atol=1e-5, rtol=1e-4)


def test_each_cell_and_field_has_an_influence():
    """Every prediction depends on the last cell of the input, on the task and on the symmetry."""
    model, batch = make_model(), make_batch([(random_grid(3, 3, 0), random_grid(2, 2, 1))])
    before = model(batch)
    changed_BT = batch.inputs_BT.clone()
    changed_BT[0, 8] = (changed_BT[0, 8] + 1) % 10
    for change in ({"inputs_BT": changed_BT}, {"tasks_B": torch.tensor([1])}, {"symmetries_B": torch.tensor([5])}):
        assert ((model(replace(batch, **change)) - before).abs().amax(-1) > 1e-4).all()


def test_targets_have_no_influence_on_logits():
    model, batch = make_model(), random_batch()
    assert torch.equal(model(batch), model(replace(batch, targets_BT=torch.full_like(batch.targets_BT, 3))))


def test_neighbours_are_those_of_the_same_grid():
    """An input of 2 × 2 and an output of 1 × 2 cells, worked out by hand; 6 is no cell."""
    layout = layout_of(grid_cells([[1, 2], [3, 4]], 0) + grid_cells([[5, 6]], 1))
    assert layout.neighbors_NK.tolist() == [
        [6, 6, 6, 6, 0, 1, 6, 2, 3],
        [6, 6, 6, 0, 1, 6, 2, 3, 6],
        [6, 0, 1, 6, 2, 3, 6, 6, 6],
        [0, 1, 6, 2, 3, 6, 6, 6, 6],
        [6, 6, 6, 6, 4, 5, 6, 6, 6],
        [6, 6, 6, 4, 5, 6, 6, 6, 6],
    ]


def test_neighbours_of_different_sequences_do_not_touch():
    model, batch = make_model(), random_batch()
    changed_BT = batch.inputs_BT.clone()
    changed_BT[1, :4] = (changed_BT[1, :4] + 1) % 10
    changed = (model(replace(batch, inputs_BT=changed_BT)) - model(batch)).abs().amax((1, 2))
    assert changed[1] > 1e-3
    assert changed[[0, 2]].max() == 0


def test_mixing_is_the_depthwise_convolution_of_torch():
    torch.manual_seed(0)
    mixing, states_ND = NeighborMixing(4).double(), torch.randn(15, 4, dtype=torch.float64, requires_grad=True)
    nn.init.normal_(mixing.weight)
    neighbors_NK = layout_of(grid_cells(random_grid(3, 5, 0), 0)).neighbors_NK
    image_1DHW = states_ND.T.view(1, 4, 3, 5)
    expected = F.conv2d(image_1DHW, mixing.weight.T.reshape(4, 1, 3, 3), padding=1, groups=4)[0].flatten(1).T
    torch.testing.assert_close(mixing(states_ND, neighbors_NK), expected)
    inputs = (states_ND, mixing.weight)
    upstream = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(mixing(states_ND, neighbors_NK), inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_rotations_depend_on_differences_of_row_column_and_plane():
    """A shift of all cells changes no score; a shift along one axis of one cell does."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 16)

    def score(first, second):
        rope_first, rope_second = (positions.grid_rope(*torch.tensor(place)[:, None], 16, 100.0) for place in (first, second))
        return float((apply_rotary_emb(query, rope_first) * apply_rotary_emb(key, rope_second)).sum())

    base = score((2, 3, 0), (4, 1, 0))
    assert score((7, 9, 0), (9, 7, 0)) == pytest.approx(base, abs=1e-5)
    for moved in ((3, 1, 0), (4, 2, 0), (4, 1, 1)):
        assert abs(score((2, 3, 0), moved) - base) > 1e-3
    assert positions.pairs_by_axis(32) == (7, 7, 2)
    assert positions.pairs_by_axis(6) == (1, 1, 1)


def test_the_copy_bias_raises_the_colour_of_the_input_in_place_alone():
    model, batch = make_model(), random_batch()
    before = model(batch)
    with torch.no_grad():
        model.head.copy_bias += 2.0
    change = model(batch) - before
    expected = torch.zeros_like(change)
    expected[0, : 3 * 4] = 2.0 * F.one_hot(batch.inputs_BT[0, : 3 * 4], NUM_COLORS)
    torch.testing.assert_close(change, expected)


def test_the_loss_is_the_mean_over_the_targets():
    """Computed a second time cell by cell; input cells and padding do not count."""
    model, batch = make_model(), random_batch()
    terms = output_cell_loss(model, IGNORE, batch)
    log_probs = model(batch).log_softmax(-1)
    targets = [(b, t, int(batch.targets_BT[b, t])) for b, t in (batch.targets_BT != IGNORE).nonzero().tolist()]
    assert len(targets) == 12 + 12 + 2
    torch.testing.assert_close(terms["loss"], -torch.stack([log_probs[target] for target in targets]).mean())
    correct = [int(log_probs[b, t].argmax()) == color for b, t, color in targets]
    assert float(terms["correct"]) == pytest.approx(sum(correct) / len(targets))


def test_a_new_model_knows_nothing_but_has_a_gradient_in_every_group():
    torch.manual_seed(0)
    model = build_grid_transformer(TINY, VOCAB_SIZE)
    (objective,) = objectives(model, IGNORE)
    loss = objective.loss(random_batch())["loss"]
    assert float(loss.detach()) == pytest.approx(2.3026, abs=0.1)
    loss.backward()
    assert {name: len(group) for name, group in objective.param_groups.items()} == {"embedding": 5, "matrix": 14, "default": 10}
    assert all(any(p.grad.any() for p in group) for group in objective.param_groups.values())
    assert sum(map(len, objective.param_groups.values())) == len(list(model.parameters()))


def test_low_rank_adapters_take_effect_on_every_projection():
    """Each adapter alone gets a gradient and changes the logits; the output layer is no linear layer and gets none."""
    model, batch = make_model(), random_batch()
    before = model(batch)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    names = {name.rpartition(".")[2] for name in adapted.base_model.targeted_module_names}
    assert names == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert len(adapted.base_model.targeted_module_names) == 7 * TINY.num_hidden_layers
    torch.testing.assert_close(adapted(batch), before)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
            assert (adapted(batch) - before).abs().max() > 1e-4, name
            torch.nn.init.zeros_(parameter)


def test_the_config_takes_the_number_of_tasks_from_the_corpus():
    section = {"arch": "grid_transformer", "hidden_size": 16, "num_attention_heads": 2}
    completed = complete_model(resolve_model(section, "model"), {"Task": range(40)}, "model")
    assert completed.model_config.num_tasks == completed.section["num_tasks"] == 40
    fixed = complete_model(resolve_model({**section, "num_tasks": 7}, "model"), {}, "model")
    assert fixed.model_config.num_tasks == 7
    with pytest.raises(ConfigError, match="model.num_tasks: must be a number for tokens without the class Task, got null"):
        complete_model(resolve_model(section, "model"), {"Color": range(10)}, "model")


def test_a_grid_model_offers_blocks_and_no_logits_of_a_next_token():
    assert capabilities(SPEC) == {"blocks"}
    assert "next_token_logits" in CAPABILITIES
    assert SPEC.max_seq_len(GridTransformerConfig()) == 2 * 30 * 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks_B": torch.tensor([0, 3, 0])}, "tasks_B must be 0 to num_tasks - 1 = 2, got 0 to 3"),
        (
            {"inputs_BT": torch.full((3, 16), 12)},
            r"inputs_BT must be colours, padding \(10\) or queries \(13\), got 12",
        ),
        ({"coords_BT3": torch.tensor([0, 30, 0]).expand(3, 16, 3)}, "coords_BT3: rows of cells must be 0 to 29, got 30 to 30"),
        ({"coords_BT3": torch.tensor([0, 0, -1]).expand(3, 16, 3)}, "coords_BT3: planes of cells must be 0 to 1, got -1 to -1"),
    ],
)
def test_a_batch_that_the_model_cannot_take_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_model()(replace(random_batch(), **change))


def test_padding_and_queries_are_those_of_the_domain():
    assert (PADDING, QUERY) == (PAD, MASK)


def test_a_sequence_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="sequence length must be <= max_cells = 64, got 65"):
        make_model()(random_batch(width=65))


def test_a_vocabulary_without_all_tokens_of_cells_is_refused():
    with pytest.raises(ValueError, match="vocab_size must be >= 14: 10 colours, a query and padding, got 10"):
        build_grid_transformer(TINY, 10)
    assert count(TINY) == sum(parameter.numel() for parameter in build_grid_transformer(TINY, 58).parameters())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", 18, "hidden_size: must be a multiple of"),
        ("hidden_size", 8, "hidden_size: must be >= 6"),
        ("num_tasks", 0, "num_tasks: must be >= 1 or null, got 0"),
        ("rope_theta", 0.0, "rope_theta: must be > 0"),
        ("max_cells", 0, "max_cells: must be >= 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        core_config.parse_config(GridTransformerConfig, {"num_attention_heads": 2, key: value}, "model")


def test_a_model_learns_to_shift_a_grid():
    """Each cell takes the colour of its left neighbour: a rule of the neighbourhood, learned from other grids than it is tested on."""

    def shifted(seed):
        grid = random_grid(3, 4, seed)
        return grid, [[0, *line[:-1]] for line in grid]

    torch.manual_seed(0)
    model = build_grid_transformer(TINY, VOCAB_SIZE)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(60):
        loss = output_cell_loss(model, IGNORE, make_batch([shifted(16 * step + n) for n in range(16)]))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = make_batch([shifted(5000 + n) for n in range(16)])
    assert float(output_cell_loss(model.eval(), IGNORE, held_out)["correct"]) > 0.95
