"""What the probes recorded, and the steps taken, in; out, whether this net may be called trained, and why or why not."""

from collections.abc import Iterator, Mapping

from provenlm.core.audit import Metric, MetricRecorder

METRIC_NAME = "trained"


def record_trained_check(audit: MetricRecorder, steps: int) -> None:
    """`trained` is 1 if there are trainable parameters, updates were made, parameters moved, and the loss is below the unigram's.

    The loss is the held-out one, or, where the corpus holds nothing out, that of training. What was not measured speaks against.
    """
    conditions = [*_preconditions(audit.metrics, steps), _beats_unigram(audit.metrics)]
    failures = [reason for passed, reason in conditions if not passed]
    verdict = f"no: {'; '.join(failures)}" if failures else f"yes: {'; '.join(reason for _, reason in conditions)}"
    audit.add_measurement(METRIC_NAME, int(not failures), "", f"whether this net may be called trained: {verdict}")


def _preconditions(metrics: Mapping[str, Metric], steps: int) -> Iterator[tuple[bool, str]]:
    trainable, unchanged, relative_update = (
        _numeric_value(metrics, f"learned.{name}") for name in ("trainable", "unmoved", "moved")
    )
    yield _is_positive(trainable), f"{_format(trainable)} trainable parameters"
    yield steps > 0, f"{steps:,} updates were applied"
    note = f", {_format(unchanged)} tensors did not move" if unchanged else ""
    yield _is_positive(relative_update), f"parameters moved by {_format(relative_update)} of their length{note}"


def _beats_unigram(metrics: Mapping[str, Metric]) -> tuple[bool, str]:
    split = "heldout" if _is_positive(_numeric_value(metrics, "heldout.documents")) else "training"
    loss, unigram = _numeric_value(metrics, f"{split}.nats"), _numeric_value(metrics, f"{split}.unigram.nats")
    name = "held-out loss" if split == "heldout" else "training loss (the corpus holds nothing out)"
    explanation = f"{name} {_format(loss)} nats against {_format(unigram)} of the unigram baseline"
    return loss is not None and unigram is not None and loss < unigram, explanation


def _numeric_value(metrics: Mapping[str, Metric], name: str) -> float | None:
    metric = metrics.get(name)
    return None if metric is None or isinstance(metric.value, str) else metric.value


def _is_positive(value: float | None) -> bool:
    return value is not None and value > 0


def _format(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
