"""Latents, controls, adversarial balance and fine-tuning: right values by hand, and planted faults that are found."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.domains.music.content.score import NoteTable
from provenlm.domains.music.evaluate import controls
from provenlm.domains.music.evaluate.adversarial import gradient_share
from provenlm.domains.music.evaluate.latents import measure_latent_losses
from provenlm.domains.music.evaluate.spec import SPEC, conditions
from provenlm.evaluation.probes.gradient_reach import gradient_reach_probe
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import Latent, LatentSample, Posterior
from provenlm.training.config_sections import LRScheduleConfig
from tests.domains.music.eval_contexts import (
    CONFIG,
    TINY_GAN,
    TINY_VAE,
    corpus,
    make_split,
    measure,
    transformer_context,
    vae_context,
)
from tests.domains.music.planted_models import PlantedModel


@pytest.fixture(scope="module")
def context():
    """Return the context of a VAE after 12 steps."""
    context = vae_context()
    changes = {"max_steps": 12, "lr_schedule": LRScheduleConfig(2), "eval": None, "spike_guard": None}
    torch.manual_seed(0)
    for _ in context.make_trainer(context.model, context.tokens, changes).steps():
        pass
    context.model.eval()
    return context


def planted_latent(uses_latents=True, spread=0.1):
    """Return a latent space by hand: the mean of a bar is (number of its targets, 1), and each target costs the distance to it.

    The prior is at the origin. Without `uses_latents` every target costs 2 nats.
    """

    def posterior(model, batch):
        counts_BN = torch.zeros(batch.attributes_BNA.shape[:2])
        counts_BN.scatter_add_(1, batch.bars_BT, (batch.targets_BT != IGNORE).float())
        mean_BNZ = torch.stack([counts_BN / 10, torch.ones_like(counts_BN)], -1)
        return Posterior(mean_BNZ, torch.full_like(mean_BNZ, 2 * np.log(spread)), counts_BN > 0)

    def token_nats(model, batch, latents_BNZ):
        distance_BN = (latents_BNZ - posterior(model, batch).mean_BNZ).norm(dim=-1)
        nats_BT = distance_BN.gather(1, batch.bars_BT) if uses_latents else torch.full(batch.inputs_BT.shape, 2.0)
        return torch.where(batch.targets_BT == IGNORE, 0.0, nats_BT)

    def prior(model, num_sequences, num_latents, generator, attributes_BNA):
        return LatentSample(torch.zeros(num_sequences, num_latents, 2), attributes_BNA)

    return Latent(posterior, token_nats, prior, lambda *arguments: None)


def test_a_latent_that_the_decoder_uses_has_a_gap():
    metrics, recorder = measure("latent_losses", replace(vae_context(), latent=planted_latent()))
    assert metrics["posterior.loss"] < 0.3 < 1 < metrics["prior.loss"]
    assert metrics["prior_gap"] == pytest.approx(metrics["prior.loss"] - metrics["posterior.loss"], rel=1e-6)
    assert metrics["prior_gap.ratio"] > 0.5 and metrics["prior_gap.ci_low"] > 0
    assert metrics["posterior.loss"] < metrics["shuffled.loss"] < metrics["prior.loss"]
    assert metrics["conditional_bound"] == pytest.approx(metrics["posterior.loss"] + metrics["kl"])
    assert recorder.series[0].y_values["divergence"][0] >= recorder.series[0].y_values["divergence"][1]


def test_the_divergence_is_that_of_torchs_distributions():
    """The second dimension has the mean 1 and the standard deviation 0.1 for every bar."""
    losses = measure_latent_losses(replace(vae_context(), latent=planted_latent()), CONFIG.latents)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(1.0, 0.1), normal(0.0, 1.0)).item()
    assert losses.kl_Z[1] == pytest.approx(expected, rel=1e-5)
    assert losses.variance_Z[1] == 0 and losses.variance_Z[0] > 0


def test_a_planted_collapse_is_caught_although_all_units_are_active():
    """The seed judged nothing; the number of active units alone would say that all is well."""
    metrics, _ = measure("latent_losses", replace(vae_context(), latent=planted_latent(uses_latents=False)))
    assert metrics["active_units"] >= 1 and metrics["informative_units"] == 2
    assert metrics["prior_gap"] == metrics["prior_gap.ratio"] == metrics["prior_gap.ci_low"] == 0
    checks = SPEC.probes(CONFIG)["latent_losses"].checks
    assert checks["prior_gap.ratio"].expect == "> 0.02" and checks["prior_gap.ci_low"].expect == "> 0"


def test_a_vae_whose_injection_is_zero_is_collapsed():
    context = vae_context()
    assert not context.model.from_latent.weight.any()
    assert measure("latent_losses", context)[0]["prior_gap"] == pytest.approx(0, abs=1e-6)


def test_the_bound_counts_what_the_attributes_cost(context):
    metrics, _ = measure("latent_losses", context)
    assert metrics["bound"] > metrics["posterior.loss"] + 0.9 * metrics["kl"]
    assert metrics["backoff.loss"] < metrics["unigram.loss"] < metrics["uniform.loss"] == pytest.approx(np.log(corpus().vocab_size))


def test_a_causal_decoder_does_not_leak_and_a_planted_leak_is_found(context):
    metrics, _ = measure("latent_causality", context)
    assert metrics["max_past_change"] < 1e-4 and metrics["min_present_change"] > 1e-3

    def peeking_nats(model, batch, latents_BNZ):
        return context.latent.token_nats(model, batch, latents_BNZ) + batch.inputs_BT.roll(-1, 1) * 0.01

    leaky = replace(context, latent=replace(context.latent, token_nats=peeking_nats))
    assert measure("latent_causality", leaky)[0]["max_past_change"] > 1e-2


def test_random_tokens_cost_at_least_ln_v_unless_the_decoder_sees_them(context):
    assert measure("latent_random_tokens", context)[0]["z_score"] > -4

    def seeing_nats(model, batch, latents_BNZ):
        return torch.zeros(batch.targets_BT.shape)

    seeing = replace(context, latent=replace(context.latent, token_nats=seeing_nats))
    assert measure("latent_random_tokens", seeing)[0]["z_score"] < -100


def test_a_small_vae_learns_one_batch_and_a_planted_constant_loss_does_not(context):
    config = replace(CONFIG, latents=replace(CONFIG.latents, overfit_steps=40))
    metrics, recorder = measure("latent_overfit", context, config)
    assert metrics["loss"] < 0.6 * metrics["initial_loss"]
    assert len(recorder.series[0].y_values["loss"]) == 40

    def objectives(model):
        objective = context.objectives(model)[0]
        return [replace(objective, loss=lambda batch: {"loss": model.lm_head.bias.sum() * 0 + 3.0})]

    metrics, _ = measure("latent_overfit", replace(context, objectives=objectives), CONFIG)
    assert metrics["loss"] == metrics["initial_loss"] == 3
    assert SPEC.probes(CONFIG)["latent_overfit"].checks["loss"].expect == "< 0.5 * initial_loss"


def test_every_probe_of_latents_measures_a_real_vae(context):
    config = CONFIG
    losses = measure("latent_losses", context)[0]
    assert losses["sequences"] == config.latents.num_sequences and losses["dimensions"] == TINY_VAE.latent_size
    reconstruction = measure("reconstruction", context)[0]
    assert 0 <= reconstruction["chroma.shuffled"] <= 1 and 0 <= reconstruction["token_agreement"] <= 1
    interpolation, recorder = measure("interpolation", context)
    assert -1 <= interpolation["monotonicity"] <= 1
    assert list(recorder.series[0].x_values) == [0, 0.5, 1]
    conditioning = measure("conditioning", context)[0]
    assert conditioning["correlation.min"] == min(conditioning["correlation.density"], conditioning["correlation.polyphony"])


def test_samples_of_a_vae_come_from_its_prior(context):
    metrics, _ = measure("grammar", context)
    assert metrics["samples"] == CONFIG.num_samples
    assert 0 <= metrics["valid"] <= 1


def test_performance_of_a_vae_is_measured_too(context):
    metrics, _ = measure("performance", context, replace(CONFIG, performance=replace(CONFIG.performance, seq_lens=(64,))))
    assert metrics["seq_64.step.tokens_per_second"] > 0
    assert metrics["seq_64.generation.tokens_per_second"] > 0


def reach(context):
    recorder = MetricRecorder()
    gradient_reach_probe().run(context, recorder)
    return recorder


def test_free_bits_above_every_divergence_make_the_term_inert(context):
    model = copy.deepcopy(context.model)
    model.config = replace(TINY_VAE, free_bits=1e6)
    assert "vae.kl" in reach(replace(context, model=model)).metrics["inert_terms"].description


def test_the_gradient_of_each_objective_reaches_its_modules(context):
    recorder = reach(context)
    values = {name: metric.value for name, metric in recorder.metrics.items()}
    assert values["inert_terms"] == 0, recorder.metrics["inert_terms"].description
    assert values["unreached_modules"] == 0, recorder.metrics["unreached_modules"].description
    assert values["untrained_params"] == 0
    assert values["vae.rest.share"] < 1e-3 and values["prior.rest.share"] < 1e-3


def notes_of(*pitches, duration=4):
    number = np.arange(len(pitches), dtype=np.int64)
    constant = np.full(len(pitches), duration, np.int64)
    return NoteTable(number * duration, np.array(pitches, np.int64), constant, constant, constant * 0, 4)


def test_chroma_counts_the_steps_of_each_pitch_class():
    assert controls.chroma(notes_of(60, 72, 61)).tolist() == [8, 4, *[0] * 10]
    assert controls.cosine(controls.chroma(notes_of(60)), controls.chroma(notes_of(48))) == 1
    assert controls.cosine(np.zeros(12), np.ones(12)) == 0


def test_ranks_decide_the_correlation():
    x = np.array([0, 0.5, 1])
    assert controls.rank_correlation(x, np.array([-5.0, 1.0, 900.0])) == pytest.approx(1)
    assert controls.rank_correlation(x, np.array([3.0, 2.0, 1.0])) == pytest.approx(-1)
    assert controls.rank_correlation(x, np.ones(3)) == 0


def test_the_least_similar_passages_are_paired_once():
    c, g, f_sharp = (controls.chroma(notes_of(*pitches)) for pitches in ((60, 64, 67), (60, 64, 69), (54, 58, 61)))
    assert controls.choose_pairs([c, g, f_sharp, np.zeros(12)], 2)[0] in ((0, 2), (1, 2))
    assert len(controls.choose_pairs([c, g, f_sharp, np.zeros(12)], 2)) == 1


def play(pitch_of, context):
    """Return what a model with latents would generate, by hand: for each row `pitch_of(row)` over and over."""
    classes = context.tokenizer.token_classes
    ids = {token: token_id for token_id, token in context.tokenizer.tokens.items()}
    bar = [int(classes["Bar"][0]), ids["TimeSig_4/4"], ids["Position_0"]]

    def decode(context, sample, sampling, max_new_tokens, generator):
        rows = range(len(sample.latents_BNZ))
        return [[*bar, ids[f"Pitch_{pitch_of(row, sample)}"], ids["Duration_1.0.12"]] * 4 for row in rows]

    return decode


def test_an_interpolation_that_moves_from_one_piece_to_the_other_is_monotone(context, monkeypatch):
    """The planted decoder plays the pitches of the first piece, then of both, then of the second."""
    batch_context = replace(context, latent=planted_latent())
    originals = [notes_of(60, 60), notes_of(66, 66)]
    monkeypatch.setattr(controls, "decode_latents", play(lambda row, sample: (60, 61, 66)[row % 3], context))
    real_read = controls.read_notes
    calls = []

    def read_notes(context, sequences):
        calls.append(sequences)
        return originals if len(calls) == 1 else real_read(context, sequences)

    monkeypatch.setattr(controls, "read_notes", read_notes)
    metrics, recorder = measure("interpolation", batch_context)
    assert metrics["monotonicity"] == pytest.approx(1)
    assert recorder.series[0].y_values == {"first piece": [1.0, 0.0, 0.0], "second piece": [0.0, 0.0, 1.0]}


def test_a_planted_decoder_that_ignores_attributes_has_no_correlation(context, monkeypatch):
    monkeypatch.setattr(controls, "decode_latents", play(lambda row, sample: 60, context))
    metrics, _ = measure("conditioning", context)
    assert metrics["correlation.density"] == metrics["correlation.min"] == 0


@pytest.fixture(scope="module")
def gan_context():
    return vae_context(TINY_GAN)


def test_the_adversarial_gradient_has_its_share(gan_context):
    metrics, _ = measure("adversarial", gan_context)
    assert metrics["gradient_share"] == pytest.approx(0.1, rel=0.01)
    assert 0 <= metrics["accuracy"] <= 1


def test_a_planted_score_without_a_graph_has_no_share(gan_context):
    """In the seed the generator was scored on sampled ids under no_grad."""
    model = gan_context.model
    objective = gan_context.objectives(model)[0]
    batch = gan_context.train_batch(2)

    def loss(batch):
        values = dict(objective.loss(batch))
        return {**values, "adversarial": values["adversarial"].detach(), "feature_matching": values["feature_matching"].detach()}

    assert gradient_share(model.train(), objective, batch) > 0.05
    assert gradient_share(model.train(), replace(objective, loss=loss), batch) == 0


def test_a_discriminator_that_never_ran_is_an_error(gan_context):
    late = replace(TINY_GAN, discriminator=replace(TINY_GAN.discriminator, start_step=100))
    with pytest.raises(ValueError, match="the start of the discriminator lies after the last step"):
        measure("adversarial", vae_context(late))


def test_conditions_say_what_a_model_lacks(gan_context):
    plain, gan = (conditions(CONFIG, context) for context in (transformer_context(), gan_context))
    assert plain["discriminator"] == "no objective of the model trains a discriminator"
    assert plain["attributes"] == "the batches of the recipe have no attributes"
    assert plain["base_model"] == "training started from random weights (base_model: none)"
    assert gan["discriminator"] is gan["attributes"] is gan["music_samples"] is None


def test_fine_tuning_is_compared_with_the_base_model():
    """The model after fine-tuning knows a piece by heart, and its base model was trained on all held-out pieces but one."""
    train = corpus().train
    piece = torch.tensor(np.asarray(train.ids[1:258]).astype(np.int64))
    tokens = replace(corpus(), train=make_split([np.asarray(train.ids[: train.doc_offsets[1]]).tolist()]))
    context = transformer_context()
    copier = PlantedModel(by_position=piece)
    base = PlantedModel(by_token=torch.zeros(corpus().vocab_size, dtype=torch.int64), strength=0.0)
    context = replace(
        context,
        model=copier,
        logits=lambda model, tokens_BT: model(tokens_BT),
        logits_with_cache=None,
        build_untrained=lambda: base,
        tokens=tokens,
        max_seq_len=256,
        has_base_model=True,
        base_training_records=frozenset(corpus().val.record_ids[1:]),
    )
    metrics, _ = measure("fine_tuning", context, replace(CONFIG, num_sample_tokens=128))
    assert metrics["val.in_base_training"] == metrics["val.pieces"] - 1 == len(corpus().val.record_ids) - 1 > 0
    assert metrics["after.copied"] == 1 > metrics["human.copied_p95"] >= metrics["human.copied"]
    assert metrics["before.copied"] < 0.5
    assert metrics["pieces"] == 1


def test_fine_tuned_samples_without_a_melody_are_an_error_not_originality():
    silent = PlantedModel(by_token=torch.full((corpus().vocab_size,), corpus().special_tokens["pad"], dtype=torch.int64))
    context = replace(
        transformer_context(),
        model=silent,
        logits=lambda model, tokens_BT: model(tokens_BT),
        logits_with_cache=None,
        build_untrained=lambda: silent,
        has_base_model=True,
    )
    with pytest.raises(ValueError, match="samples of the base model: at least one must have a melody of six notes, got none"):
        measure("fine_tuning", context)


@pytest.mark.parametrize(
    ("piece", "output", "agreement"),
    [([4, 5, 6, 7], [4, 9, 6], 2 / 3), ([1, 4, 5, 6], [4, 5, 6], 1), ([4], [], 0), ([1], [4], 0)],
)
def test_token_agreement_aligns_pieces_that_begin_with_bos(piece, output, agreement):
    assert controls.token_agreement(piece, output, start=1) == pytest.approx(agreement)
