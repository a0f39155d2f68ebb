"""Test the bias that balances experts: updates, checkpoints, skipped steps."""

from dataclasses import replace

import pytest
import torch

from provenlm.core.errors import ProvenlmError
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def begin(dataset, model_config, make_config):
    def start(resume=None, rate=0.01, **changes):
        config = make_config(**changes)
        rng_state.seed_all(3)
        model = SPEC.build(
            replace(model_config, load_balancing="bias", load_balancing_weight=rate, dropout=0.0), dataset.vocab_size
        )
        objectives = SPEC.objectives(model, IGNORE)
        return (
            model,
            objectives[0],
            train_steps(model, objectives, build_dataloader(dataset, config), [], config, resume, lambda: None),
        )

    return start


def biases(model):
    return [router.bias_E.clone() for router in model.routers]


def test_each_step_changes_every_bias_by_the_rate_or_not_at_all(begin):
    model, _, steps = begin()
    for number in (1, 2, 3):
        before = biases(model)
        assert next(steps).number == number
        moves = [(now - then) / 0.01 for now, then in zip(biases(model), before, strict=True)]
        assert all(abs(move - move.round()).max() < 1e-4 and move.abs().max() < 1.001 for move in moves)
        assert all(move.abs().max() > 0.99 for move in moves)


def test_micro_batches_update_the_bias_like_the_whole_batch(begin):
    updated = []
    for micro_batch in (8, 2):
        model, _, steps = begin(micro_batch_size=micro_batch)
        next(steps)
        updated.append(biases(model))
    assert all(torch.equal(first, second) for first, second in zip(*updated, strict=True))


def test_with_a_bias_the_balancing_loss_is_not_minimized(begin):
    _, objective, _ = begin(rate=100.0)
    ids = torch.arange(4, 20).repeat(2, 1)
    terms = objective.loss(TokenBatch(ids, ids))
    expected = terms["cross_entropy"] + 0.001 * terms["router_z"]
    assert terms["loss"].item() == pytest.approx(expected.item())
    assert terms["load_balancing"].item() > 0


def test_evaluation_does_not_count_tokens_per_expert(begin):
    model, objective, _ = begin()
    ids = torch.arange(4, 20).repeat(2, 1)
    objective.loss(TokenBatch(ids, ids))
    assert [router.tokens_per_expert_E.sum() for router in model.routers] == [64, 64]  # two experts for each of 32 tokens
    model.eval()
    objective.loss(TokenBatch(ids, ids))
    assert [router.tokens_per_expert_E.sum() for router in model.routers] == [64, 64]


def test_a_skipped_step_changes_no_bias_and_resets_its_counts(begin):
    model, _, steps = begin()
    next(steps)
    before = biases(model)
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    assert next(steps).skip_reason
    assert all(torch.equal(now, then) for now, then in zip(biases(model), before, strict=True))
    assert all(router.tokens_per_expert_E.sum() == 0 for router in model.routers)


def test_resuming_with_a_bias_gives_the_bits_of_never_stopping(begin, tmp_path):
    model, _, steps = begin(max_steps=8)
    for step in steps:
        if step.number == 4:
            checkpoint.save_checkpoint(tmp_path / "four", step.snapshot(), {})
    resumed, _, rest = begin(checkpoint.load_checkpoint(tmp_path / "four"), max_steps=8)
    assert [step.number for step in rest] == [5, 6, 7, 8]
    assert all(
        torch.equal(first, second) for first, second in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    assert any(bias.abs().max() > 0 for bias in biases(resumed))


def test_the_bias_alone_recovers_a_collapsed_router(begin):
    """The planted fault: a bias that sends every token to the same two of four experts. Where it does not move, it stays so."""

    def dead(rate):
        model, objective, _ = begin(rate=rate)
        with torch.no_grad():
            for router in model.routers:
                router.bias_E[:2] = 1.0
        model.train()
        ids = torch.randint(4, 20, (8, 16), generator=torch.Generator().manual_seed(1))
        for _ in range(60):
            objective.loss(TokenBatch(ids, ids))
            objective.post_step(True)
        return SPEC.eval_metrics(model.eval(), ids)["dead_experts"][0]

    assert dead(0.0) > 0
    assert dead(0.05) == 0


def test_a_model_with_a_router_bias_cannot_be_exported_to_hf(begin):
    model, _, _ = begin()
    with pytest.raises(ProvenlmError, match="model.load_balancing: must be aux_loss or global_aux_loss for export"):
        SPEC.to_hf(model.config, 20, model.state_dict())
