"""A training with another seed: the same settings, other weights; with the same seed, the same weights."""

import torch

from provenlm.evaluation.probes.seed_rerun import retrain_with_seed
from provenlm.models.common.objective import IGNORE
from provenlm.models.moe.spec import SPEC
from provenlm.training.build_model import fresh
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_with_the_recipes_own_seed_it_is_the_recipes_own_training(tokens, shape, settings):
    asked = settings(seed=4)
    model = fresh(SPEC, shape, tokens.vocabulary, 4)
    steps = list(train_steps(model, SPEC.objectives(model, IGNORE), build_dataloader(tokens, asked), [], asked, None, lambda: None))
    repeated, seconds = retrain_with_seed(SPEC, shape, tokens, settings(seed=1), 4)
    assert same(repeated, model)
    assert seconds > 0 and len(steps) == asked.steps


def test_another_seed_gives_other_weights(tokens, shape, settings):
    one, other = (retrain_with_seed(SPEC, shape, tokens, settings(), seed)[0] for seed in (1, 2))
    assert not same(one, other)


def test_the_average_is_what_is_published(tokens, shape, settings):
    plain, averaged = (retrain_with_seed(SPEC, shape, tokens, settings(ema=ema), 1)[0] for ema in (None, 0.9))
    assert not same(plain, averaged)
