"""Derive recommendations from what the other probes measured.

No sentence is printed without a measured value.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.domains.music.evaluate.latents import MIN_GAP_RATIO
from provenlm.domains.music.evaluate.performance import MEBIBYTE
from provenlm.evaluation.probe import EvalContext, Probe

SPEED_TOLERANCE = 0.8  # of the fastest training: the longest length above it is recommended

MetricValues = Mapping[str, float]


class Recommendation(NamedTuple):
    """Hold one finding and what follows from it.

    `passed` is None for advice that is no gate.
    """

    area: str
    finding: str
    advice: str
    passed: bool | None = None


@dataclass
class Findings:
    """Collect the values that probes record, as `probe.metric`."""

    values: dict[str, float] = field(default_factory=dict)

    def collect(self, name: str, probe: Probe) -> Probe:
        """Return the probe; what it records is collected."""

        def run(context: EvalContext, metrics: MetricRecorder) -> None:
            probe.run(context, metrics)
            for key, metric in metrics.metrics.items():
                if not isinstance(metric.value, str):
                    self.values[f"{name}.{key}"] = float(metric.value)

        return replace(probe, run=run)


def recommendations_probe(findings: Findings) -> Probe:
    """Return the probe that reads the findings."""
    return Probe(lambda context, metrics: record_recommendations(metrics, findings.values))


def record_recommendations(metrics: MetricRecorder, values: MetricValues) -> None:
    """Record every recommendation that the values allow. ValueError if there is none."""
    recommendations = [recommendation for rule in RULES if (recommendation := rule(values)) is not None]
    if not recommendations:
        raise ValueError("recommendations must follow from at least one measured value, got none")
    gates = [recommendation for recommendation in recommendations if recommendation.passed is not None]
    failed = [recommendation.area for recommendation in gates if not recommendation.passed]
    metrics.add_count("rules", len(recommendations), "rules", "Recommendations that the values of this evaluation allow")
    description = f"Gates of the recommendations that are not passed: {', '.join(failed) or 'none'}"
    metrics.add_measurement("gates_failed", len(failed), "gates", description)
    length = recommended_length(values)
    if length is not None:
        description = f"Longest sequence that trains at {SPEED_TOLERANCE:.0%} of the best speed or more"
        metrics.add_measurement("seq_len", length, "tokens", description)
    rows = [(item.area, item.finding, item.advice, {True: "yes", False: "no", None: ""}[item.passed]) for item in recommendations]
    ready = "all gates are passed: ready for longer training" if not failed else f"not ready: {', '.join(failed)}"
    columns = ("area", "finding", "recommendation", "gate passed")
    metrics.tables.append(AuditTable("recommendations", f"What follows from the values; {ready}", columns, rows))


def by_length(values: MetricValues, metric: str) -> dict[int, float]:
    """Return a metric of the probe `performance` by sequence length."""
    prefix = "performance.seq_"
    return {
        int(name.removeprefix(prefix).partition(".")[0]): value
        for name, value in values.items()
        if name.startswith(prefix) and name.partition(".")[2].partition(".")[2] == metric
    }


def recommended_length(values: MetricValues) -> int | None:
    """Return the longest sequence that trains nearly as fast as the best one.

    Speeds are tokens per second.
    """
    rates = by_length(values, "step.tokens_per_second")
    return max((length for length, rate in rates.items() if rate >= SPEED_TOLERANCE * max(rates.values())), default=None)


def _memory(values: MetricValues) -> Recommendation | None:
    peaks = by_length(values, "step.peak_memory_bytes")
    if len(peaks) < 2:
        return None
    low, high = min(peaks), max(peaks)
    exponent = math.log(peaks[high] / peaks[low]) / math.log(high / low)
    finding = (
        f"a step takes {peaks[low] / MEBIBYTE:.0f} MiB at {low} tokens and {peaks[high] / MEBIBYTE:.0f} MiB at {high}: "
        f"memory grows with length to the power {exponent:.2f}"
    )
    advice = "activation checkpointing pays at long sequences" if exponent > 1.3 else "halve the batch when the length doubles"
    return Recommendation("memory", finding, advice)


def _speed(values: MetricValues) -> Recommendation | None:
    rates = by_length(values, "step.tokens_per_second")
    length = recommended_length(values)
    if length is None or len(rates) < 2:
        return None
    finding = ", ".join(f"{rates[key]:.0f} tokens/s at {key}" for key in sorted(rates))
    return Recommendation("sequence length", f"training runs at {finding}", f"train at up to {length} tokens")


def _learning(values: MetricValues) -> Recommendation | None:
    loss, unigram, backoff = (values.get(f"ngram_baseline.{name}") for name in ("loss", "unigram.loss", "backoff.loss"))
    if loss is None or unigram is None or backoff is None:
        return None
    finding = f"{loss:.3f} nats/token on held-out pieces; n-grams {backoff:.3f}, token frequencies {unigram:.3f}"
    if loss < backoff:
        return Recommendation("learning", finding, "train longer or larger while the held-out loss falls", True)
    advice = "more steps: the n-grams are better" if loss < unigram else "check learning rate and targets: nothing was learned"
    return Recommendation("learning", finding, advice, False)


def _collapse(values: MetricValues) -> Recommendation | None:
    gap, ratio = values.get("latent_losses.prior_gap"), values.get("latent_losses.prior_gap.ratio")
    low = values.get("latent_losses.prior_gap.ci_low")
    if gap is None or ratio is None or low is None:
        return None
    finding = f"latents of the prior cost {gap:.3f} nats/token more than those of the posterior ({ratio:.1%})"
    if low > 0 and ratio > MIN_GAP_RATIO:
        return Recommendation("latents", finding, "the decoder uses its latents", True)
    return Recommendation("latents", finding, "more free bits or slower KL annealing: the latents are ignored", False)


def _originality(values: MetricValues) -> Recommendation | None:
    copied, limit = values.get("originality.copied"), values.get("originality.copied.human_p95")
    if copied is None or limit is None:
        return None
    finding = f"samples share {copied:.1%} of their melody patterns with training pieces; human pieces up to {limit:.1%}"
    if copied <= limit:
        return Recommendation("originality", finding, "samples are no copies", True)
    return Recommendation("originality", finding, "fewer epochs, more pieces, or a smaller model: samples are copies", False)


def _grammar(values: MetricValues) -> Recommendation | None:
    valid, chance = values.get("grammar.valid"), values.get("grammar.valid.chance")
    if valid is None or chance is None:
        return None
    finding = f"{valid:.1%} of sampled tokens follow the grammar; random tokens {chance:.1%}"
    return Recommendation("grammar", finding, "train longer" if valid < 0.95 else "decode samples as they are", valid > chance)


RULES: tuple[Callable[[MetricValues], Recommendation | None], ...] = (
    _learning,
    _grammar,
    _originality,
    _collapse,
    _speed,
    _memory,
)
