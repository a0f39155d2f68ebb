"""Evaluate models of music.

The probes of data, architecture and speed apply to every model, those of the next token and of latents to models that have them; samples
are measured by their grammar, their musical metrics and their originality.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from provenlm.core.audit import Check, MetricRecorder
from provenlm.domains.music.evaluate import next_token, sample_quality
from provenlm.domains.music.evaluate.adversarial import adversarial_probe, find_discriminator
from provenlm.domains.music.evaluate.config import MusicEvalConfig
from provenlm.domains.music.evaluate.data_configurations import data_configurations_probe
from provenlm.domains.music.evaluate.edge_cases import edge_cases_probe
from provenlm.domains.music.evaluate.examples import example_probes
from provenlm.domains.music.evaluate.fine_tuning import fine_tuning_probe
from provenlm.domains.music.evaluate.latent_integration import latent_integration_probes
from provenlm.domains.music.evaluate.latents import latent_probes
from provenlm.domains.music.evaluate.performance import performance_probe
from provenlm.domains.music.evaluate.pieces import Pieces, make_latent_stream, sample_pieces
from provenlm.domains.music.evaluate.recommendations import Findings, recommendations_probe
from provenlm.domains.music.evaluate.render.formats import FORMATS
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec

MAX_REPEATS = 8  # of one token in a row
MIN_DISTINCT_TOKENS = 5

RecordSamples = Callable[[EvalContext, MetricRecorder, MusicEvalConfig, Pieces], None]


def make_probes(config: MusicEvalConfig) -> Mapping[str, Probe]:
    """Return the probes of music by name.

    `recommendations` is last, because it reads what the others measured.
    """
    findings = Findings()
    probes = {
        "data": data_configurations_probe(config),
        **next_token_probes(config),
        **sample_probes(config),
        **latent_integration_probes(config),
        **latent_probes(config),
        "adversarial": adversarial_probe(config),
        "edge_cases": edge_cases_probe(),
        "performance": performance_probe(config),
        **example_probes(config),
        "fine_tuning": fine_tuning_probe(config),
    }
    return {name: findings.collect(name, probe) for name, probe in probes.items()} | {
        "recommendations": recommendations_probe(findings)
    }


def next_token_probes(config: MusicEvalConfig) -> Mapping[str, Probe]:
    """Return the probes `ngram_baseline` and `greedy_repetition`."""
    needs = frozenset({"next_token_logits"})
    weak = "an n-gram model predicts held-out pieces better: train longer, or on more pieces"
    collapsed = "the model collapsed"
    return {
        "ngram_baseline": Probe(
            lambda context, metrics: next_token.record_ngram_baseline(context, metrics, config),
            needs | {"validation_split"},
            {"loss": Check("< backoff.loss", weak)},
        ),
        "greedy_repetition": Probe(
            next_token.record_greedy_repetition,
            needs,
            {
                "distinct_tokens": Check(f">= {MIN_DISTINCT_TOKENS}", f"greedy generation repeats a few tokens: {collapsed}"),
                "longest_run": Check(f"<= {MAX_REPEATS}", f"greedy generation repeats one token: {collapsed}"),
            },
        ),
    }


def sample_probes(config: MusicEvalConfig) -> Mapping[str, Probe]:
    """Return the probes of samples, which share them.

    They are `grammar`, `musical_metrics` and `originality`.
    """
    samples = cache(lambda key: sample_pieces(key.context, config))

    def make_run(record: RecordSamples) -> Callable[[EvalContext, MetricRecorder], None]:
        return lambda context, metrics: record(context, metrics, config, samples(_ContextKey(context)))

    needs = frozenset({"music_samples"})
    return {
        "grammar": Probe(
            make_run(sample_quality.record_grammar),
            needs,
            {
                "valid.ceiling": Check("== 1", "real pieces break the grammar: the tokenizer or its grammar is wrong"),
                "valid": Check("> valid.chance", "samples are no better than random tokens: train longer"),
                "invalid_midi": Check("== 0", "a sample gives no valid MIDI file: the tokenizer writes a damaged one"),
            },
        ),
        "musical_metrics": Probe(
            make_run(sample_quality.record_musical_metrics),
            needs | {"validation_split"},
            {"overlap": Check("> overlap.chance", "samples are no more like music than random tokens")},
        ),
        "originality": Probe(
            make_run(sample_quality.record_originality),
            needs | {"validation_split"},
            {"copied": Check("<= copied.human_p95", "samples copy the training pieces more than human pieces share with them")},
        ),
    }


def conditions(config: MusicEvalConfig, context: EvalContext) -> dict[str, str | None]:
    """Return what the probes of music need of model, data and recipe."""
    can_sample = context.token_batches or context.latent is not None
    has_discriminator = context.objectives is not None and find_discriminator(context.objectives(context.model)) is not None
    batch = context.train_batch(1)
    return {
        "attributes": None if hasattr(batch, "attributes_BNA") else "the batches of the recipe have no attributes",
        "music_samples": None if can_sample else "the model offers neither next-token logits nor latents",
        "discriminator": None if has_discriminator else "no objective of the model trains a discriminator",
        "base_model": None if context.has_base_model else "training started from random weights (base_model: none)",
    }


@dataclass(frozen=True, eq=False)
class _ContextKey:
    """Compare contexts by identity, so that samples are drawn once for all probes."""

    context: EvalContext

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ContextKey) and other.context is self.context

    def __hash__(self) -> int:
        return id(self.context)


SPEC = ValidateSpec(MusicEvalConfig, make_probes, conditions, FORMATS, make_latent_stream)
