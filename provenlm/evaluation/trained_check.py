"""Decide from recorded metrics whether a model may be called trained."""

from collections.abc import Iterator, Mapping

from provenlm.core.audit import Metric, MetricRecorder

METRIC_NAME = "trained_check"


def record_trained_check(audit: MetricRecorder, steps: int, available: Mapping[str, str | None]) -> None:
    """Record 1 if the model may be called trained, else 0.

    It needs trainable parameters, applied updates, changed parameters, and a loss below that of the unigram baseline. The loss is
    that of the validation split, or of the training split if the former is empty. A missing metric counts as a failure. The check
    does not apply to a model without next-token logits (`available`, as in the runner): it has no unigram baseline.
    """
    audit.add_check(METRIC_NAME, "== 1", "the model may not be called trained: the description of the metric names the reason")
    if reason := available["next_token_logits"]:
        audit.add_not_applicable(METRIC_NAME, reason)
        return
    conditions = [*_preconditions(audit.metrics, steps), _beats_unigram(audit.metrics)]
    failures = [reason for passed, reason in conditions if not passed]
    verdict = f"no: {'; '.join(failures)}" if failures else f"yes: {'; '.join(reason for _, reason in conditions)}"
    audit.add_measurement(METRIC_NAME, int(not failures), "", f"1 if the model may be called trained, 0 if not: {verdict}")


def _preconditions(metrics: Mapping[str, Metric], steps: int) -> Iterator[tuple[bool, str]]:
    trainable, unchanged, relative_update = (
        _numeric_value(metrics, f"updates.{name}") for name in ("trainable_params", "unchanged_tensors", "relative_update")
    )
    yield _is_positive(trainable), f"{_format(trainable)} trainable parameters"
    yield steps > 0, f"{steps:,} updates were applied"
    note = f", {_format(unchanged)} tensors did not change" if unchanged else ""
    yield _is_positive(relative_update), f"parameters changed by {_format(relative_update)} of their initial norm{note}"


def _beats_unigram(metrics: Mapping[str, Metric]) -> tuple[bool, str]:
    split = "val" if _is_positive(_numeric_value(metrics, "val.num_documents")) else "train"
    loss, unigram = _numeric_value(metrics, f"{split}.loss"), _numeric_value(metrics, f"{split}.unigram.loss")
    name = "validation loss" if split == "val" else "training loss (the validation split is empty)"
    explanation = f"{name} {_format(loss)} nats/token, unigram baseline {_format(unigram)}"
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
