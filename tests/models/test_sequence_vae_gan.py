"""Test the adversarial half of the VAE-GAN: its gradient reaches the decoder in its share, the discriminator learns, faults are seen."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.gradcheck import gradcheck_probe
from provenlm.models.sequence_vae import adversarial
from provenlm.models.sequence_vae.adversarial import (
    adversarial_terms,
    discriminator_loss,
    gumbel_softmax,
    is_active,
    one_hot_targets,
    sample_fake,
    temperature,
)
from provenlm.models.sequence_vae.losses import objectives, vae_loss
from provenlm.models.sequence_vae.model import build_sequence_vae
from tests.models.sequence_vae_cases import GAN, IGNORE, TINY, VOCAB_SIZE, make_batch, make_vae


@pytest.fixture
def model():
    return make_vae(GAN).train()


@pytest.fixture(scope="module")
def batch():
    return make_batch(6)


def gradient_norm(term, parameters):
    gradients = torch.autograd.grad(term, list(parameters), retain_graph=True, allow_unused=True)
    return torch.stack([gradient.norm() for gradient in gradients if gradient is not None] or [torch.zeros(())]).norm()


@pytest.mark.parametrize("term", ["adversarial", "feature_matching"])
@pytest.mark.parametrize("module", ["decoder", "lm_head", "from_latent", "embed_tokens", "attribute_embeddings"])
def test_adversarial_terms_reach_the_decoder(model, batch, term, module):
    terms = vae_loss(model, IGNORE, batch)
    assert gradient_norm(terms[term], getattr(model, module).parameters()) > 1e-6


def test_a_planted_sampling_without_gradient_leaves_the_decoder_unreached(model, batch, monkeypatch):
    """The published system sampled with multinomial under no_grad: its adversarial gradient on the decoder was None."""

    def multinomial(logits_BTV, temperature, hard):
        with torch.no_grad():
            ids_N = torch.multinomial(logits_BTV.softmax(-1).flatten(0, 1), 1)[:, 0]
        return F.one_hot(ids_N, VOCAB_SIZE).view_as(logits_BTV).float()

    monkeypatch.setattr(adversarial, "gumbel_softmax", multinomial)
    posterior = model.posterior(batch)
    terms = adversarial_terms(model, IGNORE, batch, posterior, model.sample(posterior))
    assert not terms["adversarial"].requires_grad


def test_adversarial_terms_do_not_reach_the_discriminator_through_the_vae(model, batch):
    terms = vae_loss(model, IGNORE, batch)
    assert gradient_norm(terms["loss"], model.discriminator.parameters()) == 0
    assert all(parameter.requires_grad for parameter in model.discriminator.parameters())


def test_the_adversarial_gradient_at_the_output_has_its_share_of_the_likelihoods(model, batch):
    terms = vae_loss(model, IGNORE, batch)
    weight = [model.lm_head.weight]
    likelihood = gradient_norm(terms["nll"], weight)
    weighted = terms["adversarial_weight"] * gradient_norm(terms["adversarial"] + terms["feature_matching"], weight)
    assert float(weighted / likelihood) == pytest.approx(GAN.discriminator.gradient_share, rel=1e-4)
    expected = (
        terms["nll"]
        + model.kl_weight * terms["kl"]
        + terms["adversarial_weight"] * (terms["adversarial"] + terms["feature_matching"])
    )
    torch.testing.assert_close(terms["loss"], expected)


def test_the_weight_has_a_limit_and_evaluation_keeps_it(batch):
    model = make_vae(replace(GAN, discriminator=replace(GAN.discriminator, max_weight=1e-3))).train()
    vae_loss(model, IGNORE, batch)
    assert float(model.adversarial_weight) == pytest.approx(1e-3)
    model.adversarial_weight.fill_(0.5)
    assert float(vae_loss(model.eval(), IGNORE, batch)["adversarial_weight"]) == 0.5
    with torch.no_grad():
        assert float(vae_loss(model.train(), IGNORE, batch)["adversarial_weight"]) == 0.5


def test_fake_tokens_are_one_hot_in_training_and_relaxed_in_evaluation(model, batch):
    latents_BNZ = model.posterior(batch).mean_BNZ
    hard_BTV = sample_fake(model, batch, latents_BNZ)
    assert torch.equal(hard_BTV.sort(-1).values[..., :-1], torch.zeros_like(hard_BTV[..., :-1]))
    soft_BTV = sample_fake(model.eval(), batch, latents_BNZ)
    torch.testing.assert_close(soft_BTV.sum(-1), torch.ones_like(soft_BTV[..., 0]))
    assert float(soft_BTV.max(-1).values.min()) < 0.99


def test_samples_follow_the_distribution_of_the_logits():
    torch.manual_seed(0)
    logits_BTV = torch.tensor([0.5, 0.3, 0.2]).log().expand(1, 20_000, 3)
    frequencies = gumbel_softmax(logits_BTV, 0.7, hard=True).mean((0, 1))
    torch.testing.assert_close(frequencies, torch.tensor([0.5, 0.3, 0.2]), atol=0.02, rtol=0)


def test_latents_of_fake_tokens_come_from_the_prior(model, batch):
    """Fake tokens do not depend on the latent of their own bar, but on that of the bar before."""
    latents_BNZ = model.posterior(batch).mean_BNZ.detach()
    model.eval()
    for bar, expected in ((2, False), (1, True)):
        changed_BNZ = latents_BNZ.clone()
        changed_BNZ[:, bar] += 3
        differs_BT = (sample_fake(model, batch, changed_BNZ) - sample_fake(model, batch, latents_BNZ)).abs().amax(-1) > 1e-6
        assert bool(differs_BT[batch.bars_BT == 2].any()) is expected


def test_the_discriminator_learns_to_tell_real_from_random_tokens(batch):
    """Real pieces repeat one note; an untrained decoder samples all."""
    torch.manual_seed(0)
    model = build_sequence_vae(GAN, VOCAB_SIZE).train()
    constant = replace(batch, targets_BT=torch.where(batch.targets_BT > 3, 5, batch.targets_BT))
    optimizer = torch.optim.Adam(model.discriminator.parameters(), 0.02)
    accuracies = []
    for _ in range(15):
        terms = discriminator_loss(model, IGNORE, constant)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        accuracies.append(float(terms["discriminator_accuracy"]))
    assert accuracies[-1] > 0.9 > accuracies[0]


def test_every_linear_layer_of_the_discriminator_has_spectral_norm_one(model, batch):
    for _ in range(10):  # each pass in training refines the estimate
        critique = model.discriminator(
            one_hot_targets(model, batch, torch.float32) @ model.embed_tokens.weight,
            batch.targets_BT != IGNORE,
            torch.zeros(6, 3, 16),
        )
    assert critique.scores_BN.shape == (6, 3)
    norms = [
        float(torch.linalg.matrix_norm(module.weight, 2))
        for module in model.discriminator.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert len(norms) == 8
    assert norms == [pytest.approx(1, abs=0.1)] * 8


def test_the_discriminator_judges_a_bar_without_padding(model, batch):
    """Targets without loss are neither real nor fake."""
    model.eval()
    tokens_BTV = one_hot_targets(model, batch, torch.float32)
    before = adversarial.judge(model, IGNORE, batch, tokens_BTV)
    padding = batch.targets_BT == IGNORE
    tokens_BTV[padding] = tokens_BTV[padding].roll(1, -1)
    after = adversarial.judge(model, IGNORE, batch, tokens_BTV)
    torch.testing.assert_close(after.scores_BN, before.scores_BN)
    torch.testing.assert_close(after.features, before.features)


def test_the_discriminator_begins_before_the_decoder_trains_against_it(batch):
    model = make_vae(replace(GAN, discriminator=replace(GAN.discriminator, start_step=3, pretraining_steps=2))).train()
    (vae, _, discriminator) = objectives(model, IGNORE)
    active = []
    for _ in range(4):
        active.append(("adversarial" in vae.loss(batch), "discriminator_accuracy" in discriminator.loss(batch)))
        discriminator.loss(batch)["loss"].backward()
        vae.post_step(True)
    assert active == [(False, False), (False, True), (False, True), (True, True)]
    assert not is_active(make_vae(TINY))


def test_the_temperature_falls_after_the_start(model):
    temperatures = []
    for updates in (0, 2, 4, 9):
        model.num_updates.fill_(updates)
        temperatures.append(temperature(model))
    assert temperatures == [1.0, 0.75, 0.5, 0.5]


@pytest.fixture
def check_gradients(batch):
    """Return a function that compares the gradients of a small model before its first step with finite differences."""

    def check(*names):
        late = replace(GAN, discriminator=replace(GAN.discriminator, start_step=3))
        trained = make_vae(late)
        trained.num_updates.fill_(5)

        def checked_objectives(model):
            return [objective for objective in objectives(model, IGNORE) if not names or objective.name in names]

        context = SimpleNamespace(
            model=trained,
            build_small=lambda vocab_size: build_sequence_vae(late, vocab_size),
            objectives=checked_objectives,
            objective_params=lambda model: {
                o.name: [parameter for group in o.param_groups.values() for parameter in group] for o in checked_objectives(model)
            },
            losses=lambda model, batch: {o.name: o.loss(batch)["loss"] for o in checked_objectives(model)},
            train_batch=lambda num_sequences: batch.select(slice(0, num_sequences)),
            token_batches=False,
            tokens=SimpleNamespace(vocab_size=VOCAB_SIZE),
            seed=1,
        )
        recorder = MetricRecorder()
        gradcheck_probe().run(context, recorder)
        return {name: metric.value for name, metric in recorder.metrics.items()}

    return check


def test_every_gradient_agrees_with_finite_differences_once_the_discriminator_is_active(check_gradients):
    """In evaluation nothing is sampled hard and weights are constants; the stopped gradients are declared."""
    metrics = check_gradients()
    assert metrics["max_relative_error"] < 1e-5
    assert metrics["min_cosine"] > 0.999999
    assert metrics["num_stops"] == 1
    discriminator_tensors = metrics["discriminator.num_tensors"] + metrics["discriminator.zero_gradient_tensors"]
    assert discriminator_tensors == len(list(make_vae(GAN).discriminator.parameters()))


def test_a_planted_stop_of_the_samples_is_caught(check_gradients, monkeypatch):
    monkeypatch.setattr(adversarial, "gumbel_softmax", lambda *args: gumbel_softmax(*args).detach())
    assert check_gradients("vae")["vae.max_relative_error"] > 0.01
