"""Test one task's adaptation: it trains, merged outputs agree, and the base comes back; planted leaks are caught."""

import pytest
import torch
from torch import nn

from models import RandomLessons, logits, mean_loss, tiny_model, tokens
from provenlm.core.errors import ConfigError
from provenlm.domains.grids.evaluate.adaptation.adapted_model import AdapterLeakError, adapted_model
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig, FineTuningConfig
from provenlm.domains.grids.evaluate.adaptation.fine_tuning import (
    accumulate_gradients,
    fine_tune,
    lesson_order,
    recomputed_activations,
)
from provenlm.domains.grids.evaluate.adaptation.weights_digest import weights_digest

STEPS = FineTuningConfig(num_steps=6, learning_rate=1e-2)
LORA = AdapterConfig(rank=4)
FULL = AdapterConfig(method="full")


@pytest.mark.parametrize("config", [LORA, FULL], ids=["lora", "full"])
def test_a_task_trains_and_leaves_the_base_as_it_was(model, config):
    digest, before_BTV = weights_digest(model), logits(model, tokens()).detach()
    flags = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    with adapted_model(model, config) as adapted:
        result = fine_tune(adapted, RandomLessons(), mean_loss(model), STEPS, micro_batch_size=2)
        assert not torch.equal(logits(model, tokens()), before_BTV)
    assert result.num_trainable_params > 0 and result.num_steps == 6 and result.max_weight_change > 0
    assert min(result.losses[-2:]) < result.losses[0]
    assert weights_digest(model) == digest and torch.equal(logits(model, tokens()), before_BTV)
    assert [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()] == flags
    assert not model.training


def test_merged_and_separate_adapters_agree(model):
    """The differences measured here are below 2e-6."""
    with adapted_model(model, LORA) as adapted:
        fine_tune(adapted, RandomLessons(), mean_loss(model), STEPS, micro_batch_size=2)
        assert adapted.merge_difference(lambda: logits(model, tokens())) < 1e-5


def test_a_merge_of_wrong_weights_is_visible(models):
    with adapted_model(models["llama"], LORA) as adapted:
        fine_tune(adapted, RandomLessons(), mean_loss(adapted.model), STEPS, micro_batch_size=2)
        adapted.tuner.merge_adapter = lambda: None  # the seed's merge only set a flag
        adapted.tuner.unmerge_adapter = lambda: adapted.tuner.disable_adapter_layers()
        unmerged = adapted.merge_difference(lambda: logits(adapted.model, tokens()))
        layer = adapted.model.get_submodule(adapted.targets[0])
        adapted.tuner.merge_adapter = lambda: layer.base_layer.weight.data.add_(0.1)
        adapted.tuner.enable_adapter_layers()
        assert unmerged == 0.0 and adapted.merge_difference(lambda: logits(adapted.model, tokens())) > 1e-3


def test_the_second_task_does_not_see_the_first(model):
    def train_once() -> tuple[float, ...]:
        """Train one task and return its losses."""
        with adapted_model(model, LORA) as adapted:
            return fine_tune(adapted, RandomLessons(), mean_loss(model), STEPS, micro_batch_size=2).losses

    assert train_once() == train_once()


def test_an_adapter_that_carries_over_is_caught(monkeypatch):
    from peft.tuners.lora import LoraModel

    model = tiny_model("llama")
    monkeypatch.setattr(LoraModel, "unload", lambda tuner: tuner.model)
    with pytest.raises(AdapterLeakError, match="differs from before the task"), adapted_model(model, LORA):
        pass
    with pytest.raises(AdapterLeakError, match="must be free of adapters before a task"), adapted_model(model, LORA):
        pass


def test_an_adapter_merged_into_the_base_is_caught():
    model = tiny_model("gpt2")
    with pytest.raises(AdapterLeakError, match="base weights must have digest"), adapted_model(model, LORA) as adapted:
        fine_tune(adapted, RandomLessons(), mean_loss(model), STEPS, micro_batch_size=2)
        adapted.tuner.merge_adapter()


def test_a_change_of_a_frozen_weight_is_caught():
    model = tiny_model("provenlm")
    with pytest.raises(AdapterLeakError, match="base weights must have digest"), adapted_model(model, LORA):
        model.norm.weight.data[0] += 1e-3


def test_an_error_in_a_task_gives_the_base_back(models):
    model = models["llama"]
    digest = weights_digest(model)
    with pytest.raises(RuntimeError, match="planted"), adapted_model(model, FULL) as adapted:
        fine_tune(adapted, RandomLessons(), mean_loss(model), STEPS, micro_batch_size=2)
        raise RuntimeError("planted")
    assert weights_digest(model) == digest


@pytest.mark.parametrize("change", ["name", "value", "type"])
def test_the_digest_names_and_reads_every_tensor(change):
    changed = nn.ParameterDict(
        {"b" if change == "name" else "a": torch.zeros(2, dtype=torch.float16 if change == "type" else None)}
    )
    if change == "value":
        changed["a"].data[1] = 1e-9
    assert weights_digest(nn.ParameterDict({"a": torch.zeros(2)})) != weights_digest(changed)


def test_half_precision_models_take_adapters(models):
    """Adapters are float32 on bfloat16 layers."""
    model = tiny_model("llama").bfloat16()
    with adapted_model(model, LORA) as adapted:
        assert {parameter.dtype for parameter in adapted.trainable.values()} == {torch.float32}
        result = fine_tune(adapted, RandomLessons(), mean_loss(model), STEPS, micro_batch_size=2)
    assert result.losses[-1] < result.losses[0]


def test_micro_batches_do_not_change_the_gradient(model):
    """Lessons have 1, 2, 3 and 4 targets: a mean of means would be another gradient."""
    gradients = []
    for size in (4, 1):
        with adapted_model(model, FULL) as adapted:
            loss = accumulate_gradients(RandomLessons().batch(range(4)), mean_loss(model), size)
            gradients.append(
                [loss, *(float(parameter.grad.norm()) for parameter in adapted.trainable.values() if parameter.grad is not None)]
            )
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4, abs=1e-6)


def test_recomputing_activations_gives_equal_losses(model):
    losses = []
    for recompute in (False, True):
        with adapted_model(model, LORA) as adapted:
            losses.append(fine_tune(adapted, RandomLessons(), mean_loss(model), STEPS, 2, recompute).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_adapters_take_part_where_a_layer_multiplies_by_weights_itself(models):
    """SwiGLU of our models does: peft's layers would have no effect. Its own forward pass comes back."""
    mlp, states_BTD = models["provenlm"].layers[0].mlp, torch.randn(1, 3, 32)
    before_BTD = mlp(states_BTD)[0]
    with adapted_model(models["provenlm"], LORA):
        torch.testing.assert_close(mlp(states_BTD)[0], before_BTD)
        mlp.up_proj.lora_B["default"].weight.data.fill_(1.0)
        assert (mlp(states_BTD)[0] - before_BTD).abs().max() > 1e-3
    assert torch.equal(mlp(states_BTD)[0], before_BTD) and "forward" not in vars(mlp)


def test_recomputation_runs_a_block_twice_and_is_switched_off_again(models):
    model, calls = models["provenlm"], []
    hook = model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with adapted_model(model, FULL):
        for recompute, expected in ((False, 1), (True, 2), (False, 1)):
            calls.clear()
            with recomputed_activations(model, recompute):
                accumulate_gradients(RandomLessons().batch([0]), mean_loss(model), 1)
            assert len(calls) == expected
    hook.remove()


def test_a_model_that_cannot_recompute_is_refused():
    with pytest.raises(ConfigError, match="must have a stack of blocks"), recomputed_activations(nn.Linear(1, 1)):
        pass


def test_every_epoch_shows_each_lesson_once():
    order = lesson_order(3, FineTuningConfig(batch_size=2))
    indices = [index for _ in range(6) for index in next(order)]
    assert [sorted(indices[start : start + 3]) for start in range(0, 12, 3)] == [[0, 1, 2]] * 4


def test_training_stops_when_it_is_told_to(models):
    answers = iter([False, False, True])
    with adapted_model(models["llama"], LORA) as adapted:
        result = fine_tune(adapted, RandomLessons(), mean_loss(adapted.model), STEPS, 2, should_stop=lambda: next(answers))
    assert result.num_steps == 2


def test_the_learning_rate_warms_up(models):
    changes = []
    for warmup_frac in (0.0, 1.0):
        config = FineTuningConfig(num_steps=1, learning_rate=1e-2, warmup_frac=warmup_frac)
        config = config if not warmup_frac else FineTuningConfig(num_steps=4, learning_rate=1e-2, warmup_frac=1.0)
        stops = iter([False, True])
        with adapted_model(models["llama"], LORA) as adapted:
            loss = mean_loss(adapted.model)
            changes.append(
                fine_tune(adapted, RandomLessons(), loss, config, 2, should_stop=lambda stops=stops: next(stops)).max_weight_change
            )
    assert changes[0] == pytest.approx(4 * changes[1], rel=1e-2)


def test_a_model_without_trainable_weights_is_not_trained(models):
    with (
        adapted_model(models["llama"], AdapterConfig(method="none")) as adapted,
        pytest.raises(ConfigError, match="must have trainable"),
    ):
        fine_tune(adapted, RandomLessons(), mean_loss(adapted.model), STEPS, 2)


def test_an_adapter_outside_the_loss_is_refused(models):
    model = models["llama"]
    with (
        adapted_model(model, LORA) as adapted,
        pytest.raises(ConfigError, match="must have a gradient after the first step, got none for"),
    ):
        fine_tune(
            adapted, RandomLessons(), lambda batch: model.model.layers[0].self_attn.q_proj.lora_B["default"].weight.sum(), STEPS, 2
        )


def test_a_loss_that_is_not_finite_ends_the_task(models):
    with (
        adapted_model(models["llama"], LORA) as adapted,
        pytest.raises(FloatingPointError, match="loss of step 0 must be finite, got nan"),
    ):
        fine_tune(adapted, RandomLessons(), lambda batch: mean_loss(adapted.model)(batch) * float("nan"), STEPS, 2)


@pytest.mark.parametrize(
    ("field", "value"), [("num_steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("warmup_frac", 1.5), ("weight_decay", -1.0)]
)
def test_a_wrong_setting_of_the_optimizer_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: must be"):
        FineTuningConfig(**{field: value})
