"""Test the sequence VAE: shapes, causality, where latents come from and what they do, the bound, the prior and generation."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from provenlm.core import config as core_config
from provenlm.core.errors import ConfigError
from provenlm.models.common.spec import LatentSample
from provenlm.models.generation.latent_generation import LatentStream, generate_from_latents
from provenlm.models.generation.sampling import GREEDY, SamplingConfig
from provenlm.models.sequence_vae.config import DiscriminatorConfig, SequenceVAEConfig
from provenlm.models.sequence_vae.losses import kl_of_latents, nats_of_targets, objectives, vae_loss
from provenlm.models.sequence_vae.model import build_sequence_vae
from provenlm.models.sequence_vae.size import flops_per_token, num_params
from provenlm.models.sequence_vae.spec import SPEC
from tests.models.sequence_vae_cases import BAR, BOS, EOS, GAN, IGNORE, TINY, VOCAB_SIZE, make_batch, make_vae

SEED_VAE = {
    "hidden_size": 512,
    "num_encoder_layers": 6,
    "num_decoder_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "attention": "hierarchical",
    "latent_size": 128,
    "max_position_embeddings": 2048,
    "num_attribute_classes": (),
    "prior": None,
}
HIERARCHICAL = replace(TINY, attention="hierarchical", window=6)
PLAIN_AND_HIERARCHICAL = pytest.mark.parametrize("config", [TINY, HIERARCHICAL], ids=["plain", "hierarchical"])


@pytest.fixture(scope="module")
def model():
    return make_vae().eval()


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def count(config: SequenceVAEConfig, vocab_size: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in SPEC.build(config, vocab_size).parameters())


def test_the_published_vae_and_vae_gan_have_51_435_014_and_61_024_775_parameters():
    config = SequenceVAEConfig(**SEED_VAE, discriminator=DiscriminatorConfig(num_hidden_layers=3))
    parts = num_params(config, 774)
    assert (parts["embedding"], parts["encoder"], parts["decoder"]) == (396_288, 25_353_472, 25_685_254)
    assert parts["discriminator"] == 9_589_761
    with torch.device("meta"):
        model = SPEC.build(config, 774)
    discriminator, total = (sum(p.numel() for p in module.parameters()) for module in (model.discriminator, model))
    assert (total - discriminator, total) == (51_435_014, 61_024_775)
    assert num_params(SequenceVAEConfig(**SEED_VAE), 774)["total"] == 51_435_014
    assert parts["total"] == 61_024_775


@pytest.mark.parametrize(
    "config", [TINY, GAN, HIERARCHICAL, SequenceVAEConfig(), replace(TINY, prior=None, num_attribute_classes=())]
)
def test_the_closed_form_counts_every_parameter(config):
    assert count(config, VOCAB_SIZE) == num_params(config, VOCAB_SIZE)["total"]


@PLAIN_AND_HIERARCHICAL
def test_no_logit_depends_on_a_later_token(config, batch):
    model = make_vae(config).eval()
    latents_BNZ = model.posterior(batch).mean_BNZ
    changed_BT = batch.inputs_BT.clone()
    changed_BT[:, 9:] = (changed_BT[:, 9:] + 1) % VOCAB_SIZE
    before, after = (
        model.decode(tokens_BT, batch.bars_BT, latents_BNZ, batch.attributes_BNA) for tokens_BT in (batch.inputs_BT, changed_BT)
    )
    torch.testing.assert_close(after[:, :9], before[:, :9], atol=1e-5, rtol=0)
    assert (after[:, 9:] - before[:, 9:]).abs().max() > 1e-3


@PLAIN_AND_HIERARCHICAL
def test_a_latent_depends_on_the_tokens_of_its_own_bar_alone(config, batch):
    model = make_vae(config).eval()
    in_second_bar = batch.bars_BT == 1
    changed = replace(batch, targets_BT=torch.where(in_second_bar, (batch.targets_BT + 1) % VOCAB_SIZE, batch.targets_BT))
    before, after = model.posterior(batch), model.posterior(changed)
    for a, b in zip(before[:2], after[:2], strict=True):
        torch.testing.assert_close(b[:, [0, 2]], a[:, [0, 2]], atol=1e-5, rtol=0)
    assert (after.mean_BNZ[:, 1] - before.mean_BNZ[:, 1]).abs().max() > 1e-3


@PLAIN_AND_HIERARCHICAL
def test_padding_changes_neither_latents_nor_losses(config, batch):
    model = make_vae(config).eval()
    padded = batch.map(lambda tensor: tensor)
    wide = replace(
        padded,
        inputs_BT=F.pad(padded.inputs_BT, (0, 5)),
        targets_BT=F.pad(padded.targets_BT, (0, 5), value=IGNORE),
        bars_BT=torch.cat([padded.bars_BT, padded.bars_BT[:, -1:].expand(-1, 5)], 1),
    )
    torch.testing.assert_close(model.posterior(wide).mean_BNZ, model.posterior(batch).mean_BNZ)
    torch.testing.assert_close(vae_loss(model, IGNORE, wide)["loss"], vae_loss(model, IGNORE, batch)["loss"])


def test_a_latent_changes_the_predictions_of_its_own_bar_first(model, batch):
    latents_BNZ = model.posterior(batch).mean_BNZ
    other_BNZ = latents_BNZ.clone()
    other_BNZ[:, 1] += 1
    before, after = (
        model.decode(batch.inputs_BT, batch.bars_BT, latents, batch.attributes_BNA) for latents in (latents_BNZ, other_BNZ)
    )
    differs_BT = (after - before).abs().amax(-1) > 1e-6
    assert not differs_BT[batch.bars_BT == 0].any()
    assert differs_BT[batch.bars_BT == 1].all()


def test_a_new_model_ignores_its_latents(batch):
    """The matrices that inject latents and attributes start at zero."""
    model = build_sequence_vae(TINY, VOCAB_SIZE).eval()
    latents_BNZ = torch.randn(3, 3, TINY.latent_size)
    logits = [
        model.decode(batch.inputs_BT, batch.bars_BT, latents, batch.attributes_BNA) for latents in (latents_BNZ, -latents_BNZ)
    ]
    assert torch.equal(*logits)


def test_the_bound_is_the_sum_of_its_parts(model, batch):
    """Computed a second time with torch's distributions, target by target."""
    terms = vae_loss(model, IGNORE, batch)
    posterior = model.posterior(batch)
    latents_BNZ = model.sample(posterior)
    normal = torch.distributions.Normal(posterior.mean_BNZ, (0.5 * posterior.log_variance_BNZ).exp())
    kl_BNZ = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    logits_BTV = model.decode(batch.inputs_BT, batch.bars_BT, latents_BNZ, batch.attributes_BNA)
    log_probs_BTV = logits_BTV.log_softmax(-1)
    nats = [-log_probs_BTV[b, t, batch.targets_BT[b, t]] for b, t in (batch.targets_BT != IGNORE).nonzero().tolist()]
    attribute_nats = model.prior.nats(latents_BNZ, batch.attributes_BNA).attribute_BN
    expected = (sum(nats) + kl_BNZ.sum() + attribute_nats.sum()) / batch.num_targets
    torch.testing.assert_close(terms["negative_elbo"], expected.detach())
    torch.testing.assert_close(terms["nll"], sum(nats) / batch.num_targets)


def test_free_bits_cost_what_the_floor_says(batch):
    """With a floor above every dimension the KL term is the floor times dimensions and latents, and has no gradient."""
    model = make_vae(replace(TINY, free_bits=1e4)).eval()
    terms = vae_loss(model, IGNORE, batch)
    assert terms["kl"].item() == pytest.approx(1e4 * TINY.latent_size * 9 / batch.num_targets)
    assert terms["kl_raw"].item() == pytest.approx(kl_of_latents(model.posterior(batch)).sum().item() / batch.num_targets)
    gradients = torch.autograd.grad(terms["kl"], list(model.to_mean.parameters()), allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_free_bits_are_those_of_each_latent_not_of_their_mean(batch):
    """A floor above the mean of every dimension still leaves the latents above it a gradient."""
    model = make_vae().eval()
    kl_MZ = kl_of_latents(model.posterior(batch)).detach()
    floor = (kl_MZ.mean(0).max() + kl_MZ.max()).item() / 2
    model.config = replace(TINY, free_bits=floor)
    kl = vae_loss(model, IGNORE, batch)["kl"]
    expected = sum(max(value, floor) for value in kl_MZ.flatten().tolist()) / batch.num_targets
    assert kl_MZ.mean(0).max() < floor and kl.item() == pytest.approx(expected)
    assert torch.autograd.grad(kl, model.to_mean.weight)[0].any()


def test_the_weight_of_the_kl_divergence_rises_with_applied_updates():
    model = build_sequence_vae(TINY, VOCAB_SIZE).train()
    (vae, *_) = objectives(model, IGNORE)
    weights = []
    for applied in (True, False, True, True, True):
        weights.append(model.kl_weight)
        vae.post_step(applied)
    assert weights == [0.25, 0.5, 0.5, 0.75, 1.0]
    assert model.eval().kl_weight == 1.0


def test_evaluation_losses_are_deterministic_and_training_losses_are_not(batch):
    model = make_vae()
    assert vae_loss(model.eval(), IGNORE, batch)["loss"] == vae_loss(model, IGNORE, batch)["loss"]
    assert vae_loss(model.train(), IGNORE, batch)["loss"] != vae_loss(model, IGNORE, batch)["loss"]


def test_objectives_share_no_parameter_and_leave_none_out():
    model = make_vae(GAN)
    groups = [p for objective in objectives(model, IGNORE) for group in objective.param_groups.values() for p in group]
    assert len(groups) == len(set(groups)) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["latents", "attributes"])
def test_the_prior_predicts_each_latent_from_earlier_ones(model, name):
    latents_BNZ, attributes_BNA = torch.randn(2, 5, TINY.latent_size), torch.randint(3, (2, 5, 2))
    before = model.prior.nats(latents_BNZ, attributes_BNA)
    if name == "latents":
        latents_BNZ[:, 2] += 1
    else:
        attributes_BNA[:, 2] = (attributes_BNA[:, 2] + 1) % 3
    after = model.prior.nats(latents_BNZ, attributes_BNA)
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(a[:, :2], b[:, :2])
        is_own = index == 0 or name == "attributes"  # the attributes of a latent are predicted before the latent
        assert (a[:, 2] != b[:, 2]).all() == is_own
        assert (a[:, 3:] != b[:, 3:]).all()


def test_samples_of_the_prior_follow_its_own_distribution():
    """A prior that was fitted to latents of mean 3 and deviation 0.5 samples them."""
    torch.manual_seed(0)
    prior = make_vae().prior
    optimizer = torch.optim.Adam(prior.parameters(), 0.02)
    for _ in range(80):
        latents_BNZ, attributes_BNA = 3 + 0.5 * torch.randn(32, 3, TINY.latent_size), torch.full((32, 3, 2), 2)
        loss = sum(nats.mean() for nats in prior.nats(latents_BNZ, attributes_BNA))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sample = prior.sample(200, 3, torch.Generator().manual_seed(1), None)
    assert float(sample.latents_BNZ.mean()) == pytest.approx(3, abs=0.15)
    assert float(sample.latents_BNZ.std()) == pytest.approx(0.5, abs=0.15)
    assert float((sample.attributes_BNA == 2).float().mean()) > 0.98


def test_given_attributes_are_kept_by_the_prior(model):
    attributes_BNA = torch.randint(3, (4, 6, 2))
    sample = SPEC.latent.prior(model, 4, 6, torch.Generator(), attributes_BNA)
    assert torch.equal(sample.attributes_BNA, attributes_BNA)
    assert sample.latents_BNZ.shape == (4, 6, TINY.latent_size)


def test_the_latent_interface_gives_the_likelihood_of_the_loss(model, batch):
    latents_BNZ = model.sample(SPEC.latent.posterior(model, batch))
    nats_BT = SPEC.latent.token_nats(model, batch, latents_BNZ)
    assert not nats_BT[batch.targets_BT == IGNORE].any()
    torch.testing.assert_close(nats_BT.sum() / batch.num_targets, vae_loss(model, IGNORE, batch)["nll"])


STREAM = LatentStream(BOS, frozenset({BAR}), EOS)


def test_bars_of_a_stream_are_numbered_as_in_batches(batch):
    assert STREAM.latent_numbers(batch.inputs_BT[0].tolist()) == batch.bars_BT[0].tolist()


@PLAIN_AND_HIERARCHICAL
def test_greedy_generation_is_the_argmax_of_the_decoder_on_its_own_output(config):
    """With a cache for plain attention, without one for hierarchical attention."""
    model = make_vae(config, spread=0.5).eval()
    sample = SPEC.latent.prior(model, 3, 2, torch.Generator().manual_seed(0), None)
    outputs = generate_from_latents(SPEC.latent, model, sample, STREAM, GREEDY, 20, torch.Generator())
    for row, output in enumerate(outputs):
        tokens_BT = torch.tensor([[BOS, *output]])
        numbers_BT = torch.tensor([STREAM.latent_numbers([BOS, *output])]).clamp(max=1)
        logits_BTV = model.decode(tokens_BT, numbers_BT, sample.latents_BNZ[row : row + 1], sample.attributes_BNA[row : row + 1])
        predicted = logits_BTV[0].argmax(-1).tolist()
        assert predicted[: len(output)] == output


def test_generation_ends_after_the_last_latent(model):
    """No sequence has more bars than latents, and one that reached the end of a bar ends there."""
    latents_BNZ = torch.zeros(20, 2, TINY.latent_size)
    sample = LatentSample(latents_BNZ, torch.ones(20, 2, 2, dtype=torch.int64))
    outputs = generate_from_latents(SPEC.latent, model, sample, STREAM, SamplingConfig(), 40, torch.Generator().manual_seed(0))
    assert {output.count(BAR) for output in outputs} <= {0, 1, 2}
    assert any(output.count(BAR) == 2 and output[-1] != EOS and len(output) < 40 for output in outputs)


def test_a_vae_learns_to_store_a_bar_in_its_latent():
    """Bars of random notes cannot be predicted from the past: what is below their entropy came through the latents."""
    torch.manual_seed(0)
    model = build_sequence_vae(replace(TINY, free_bits=2.0, kl_warmup_steps=300), VOCAB_SIZE).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    (vae, *_) = objectives(model, IGNORE)
    for step in range(80):
        loss = vae.loss(make_batch(16, notes=2, seed=step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        vae.post_step(True)
    held_out = make_batch(32, notes=2, seed=1000)
    model.eval()
    posterior = model.posterior(held_out)
    given_own, given_others = (
        float(SPEC.latent.token_nats(model, held_out, latents).sum()) / held_out.num_targets
        for latents in (posterior.mean_BNZ, posterior.mean_BNZ.roll(1, 0))
    )
    entropy = 2 / 3 * math.log(VOCAB_SIZE - 4)
    assert given_own < 0.8 * entropy < entropy < given_others


def test_flops_are_those_that_torch_counts():
    """For the matrices of the first objective; torch does not count attention on a CPU, nor we what happens once a bar."""
    config = replace(TINY, prior=None, num_attribute_classes=())
    model = build_sequence_vae(config, VOCAB_SIZE).train()
    big = make_batch(4, num_bars=2, notes=20, pad=0)
    with FlopCounterMode(display=False) as counter:
        vae_loss(model, IGNORE, big)["loss"].backward()
    counted = counter.get_total_flops() / big.inputs_BT.numel()
    assert flops_per_token(config, VOCAB_SIZE, 0) == pytest.approx(counted, rel=0.05)


def test_flops_of_a_vae_gan_are_a_lower_bound_without_its_discriminator():
    """Torch counts more in a step of the objectives once the discriminator is active."""
    model = build_sequence_vae(GAN, VOCAB_SIZE).train()
    big = make_batch(4, num_bars=2, notes=20, pad=0)
    with FlopCounterMode(display=False) as counter:
        for objective in objectives(model, IGNORE):
            objective.loss(big)["loss"].backward()
    counted = counter.get_total_flops() / big.inputs_BT.numel()
    assert flops_per_token(GAN, VOCAB_SIZE, 0) == flops_per_token(TINY, VOCAB_SIZE, 0) < counted


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", 30, "hidden_size: must be a multiple of"),
        ("free_bits", -1, "free_bits: must be >= 0, got -1"),
        ("num_attribute_classes", [1], "num_attribute_classes: must be >= 2 each"),
        ("prior", None, r"num_attribute_classes: must be \[\] without a prior"),
        ("discriminator", {"gradient_share": 0}, "gradient_share: must be > 0, got 0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        core_config.parse_config(SequenceVAEConfig, {key: value}, "model")


def test_a_batch_of_other_attributes_is_refused(model, batch):
    with pytest.raises(ValueError, match="num_attribute_classes must have 1 entries"):
        vae_loss(model, IGNORE, replace(batch, attributes_BNA=batch.attributes_BNA[..., :1]))


def test_targets_without_loss_have_no_nats():
    nats_BT = nats_of_targets(torch.zeros(1, 2, 4), torch.tensor([[1, IGNORE]]), IGNORE)
    assert nats_BT.tolist() == [[pytest.approx(math.log(4)), 0.0]]
