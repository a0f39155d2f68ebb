"""Test retraining a recipe with another seed."""

import torch

from provenlm.evaluation.probes.seed_rerun import retrain_with_seed
from provenlm.models.common.objective import IGNORE
from provenlm.models.moe.spec import SPEC
from provenlm.training.build_model import init_model
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_retraining_with_the_recipes_seed_repeats_its_training(dataset, model_config, make_config):
    config = make_config(seed=4)
    model = init_model(SPEC, model_config, dataset.vocab_size, 4)
    steps = list(
        train_steps(model, SPEC.objectives(model, IGNORE), build_dataloader(dataset, config), [], config, None, lambda: None)
    )
    repeated, seconds = retrain_with_seed(SPEC, model_config, dataset, make_config(seed=1), 4)
    assert same(repeated, model)
    assert seconds > 0 and len(steps) == config.max_steps


def test_another_seed_gives_other_weights(dataset, model_config, make_config):
    first, second = (retrain_with_seed(SPEC, model_config, dataset, make_config(), seed)[0] for seed in (1, 2))
    assert not same(first, second)


def test_the_ema_is_what_is_published(dataset, model_config, make_config):
    plain, averaged = (retrain_with_seed(SPEC, model_config, dataset, make_config(ema_decay=ema), 1)[0] for ema in (None, 0.9))
    assert not same(plain, averaged)
