"""Record the metrics that the model package defines for itself."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import equal_length_sequences

ModelMetricsFn = Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]]


def model_metrics_probe(model_metrics: ModelMetricsFn | None, num_tokens: int) -> Probe:
    """Return the probe that records `model_metrics(model, tokens_BT)`.

    These are value, unit and description by name, on about `num_tokens` tokens.
    """

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        assert model_metrics is not None  # the capability is a need of this probe
        with torch.inference_mode():
            values = model_metrics(context.model, equal_length_sequences(context, num_tokens)[:, :-1])
        for name, (value, unit, description) in values.items():
            metrics.add_measurement(name, value, unit, description)

    return Probe(probe, frozenset({"model_metrics"}))
