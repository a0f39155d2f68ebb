"""Train VAE and VAE-GAN in the training loop on bars of real tokens: separate optimizers, resume, gradient reach."""

from itertools import islice, pairwise

import pytest
import torch

from provenlm.core.errors import ConfigError
from provenlm.data.token_dataset import TokenDataset
from provenlm.domains.music.tokenize.spec import SPEC as MUSIC
from provenlm.models.sequence_vae.config import DiscriminatorConfig, LatentPriorConfig, SequenceVAEConfig
from provenlm.models.sequence_vae.spec import SPEC
from provenlm.training.checkpoints.manager import cpu_copy
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import LRScheduleConfig, OptimizerConfig, TrainEvalConfig
from provenlm.training.trainer import Trainer
from tests.domains.music.eval_contexts import corpus

VAE = SequenceVAEConfig(
    hidden_size=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    latent_size=4,
    kl_warmup_steps=4,
    prior=LatentPriorConfig(16, 1, 2, 16),
    discriminator=DiscriminatorConfig(num_hidden_layers=1, start_step=2, pretraining_steps=0),
)


@pytest.fixture(scope="module")
def dataset() -> TokenDataset:
    return corpus(6, 2)


def make_trainer(dataset, lr_factors=None) -> Trainer:
    config = TrainConfig(
        threads=1,
        seq_len=64,
        global_batch_size=4,
        max_steps=5,
        batches={"layout": "bars"},
        lr_schedule=LRScheduleConfig(warmup_steps=1),
        eval=TrainEvalConfig(interval=5, num_sequences=4),
        spike_guard=None,
        optimizer=OptimizerConfig(lr_factors=lr_factors or {}),
    )
    return Trainer.create(SPEC, VAE, dataset, config, domain_batches=MUSIC)


@pytest.fixture(scope="module")
def steps(dataset):
    """Return each step of a training, with a copy of its state."""
    return [(step, cpu_copy(step.snapshot())) for step in make_trainer(dataset).steps()]


def test_three_objectives_train_and_report_their_terms(steps):
    last = steps[-1][0]
    assert {"negative_elbo", "nll", "kl", "adversarial", "feature_matching", "prior.latent_nats"} <= last.terms.keys()
    assert 0 <= last.terms["discriminator.discriminator_accuracy"] <= 1
    assert last.val_losses is not None and last.val_losses["negative_elbo"] > 0
    assert [step.model_metrics["kl_weight"][0] for step, _ in steps] == [
        0.5, 0.75, 1.0, 1.0, 1.0,
    ]  # fmt: skip


def test_each_module_is_updated_from_its_start(dataset, steps):
    """The discriminator learns from the second step on, when the VAE alone had two updates; before, weight decay alone applies."""

    def changed(first, second, prefix, suffix=""):
        names = [name for name in second if name.startswith(prefix) and name.endswith(suffix)]
        assert names
        return any(not torch.equal(first[name], second[name]) for name in names if not name.endswith(("_u", "_v")))

    states = [make_trainer(dataset).model.state_dict(), *(state.state_dicts["model"] for _, state in steps)]
    assert [changed(states[0], states[1], prefix) for prefix in ("encoder.", "decoder.", "prior.", "to_mean.")] == [True] * 4
    assert [changed(*pair, "discriminator.", ".bias") for pair in pairwise(states)][:2] == [False, True]


def test_a_resumed_vae_gan_ends_with_the_same_bits(dataset, steps):
    resume = steps[2][1]
    rest = list(make_trainer(dataset).steps(resume))
    expected = steps[-1][1].state_dicts
    actual = rest[-1].snapshot().state_dicts
    assert [step.terms for step in rest] == [step.terms for step, _ in steps[3:]]
    for file, tensors in expected.items():
        assert [name for name, tensor in tensors.items() if not torch.equal(tensor, actual[file][name])] == []


def test_learning_rates_can_differ_between_objectives(dataset):
    trainer = make_trainer(dataset, {"discriminator": 1e-6})
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    list(islice(trainer.steps(), 5))
    changes = {
        prefix: max(
            float((p - before[name]).detach().abs().max())
            for name, p in trainer.model.named_parameters()
            if name.startswith(prefix)
        )
        for prefix in ("discriminator.", "decoder.")
    }
    assert changes["discriminator."] < 1e-6 < 1e-3 < changes["decoder."]


def test_a_factor_for_an_unknown_objective_is_refused(dataset):
    with pytest.raises(ConfigError, match=r"must name objectives of the model \(vae, prior, discriminator\), got critic"):
        make_trainer(dataset, {"critic": 0.5})
