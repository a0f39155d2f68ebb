"""Evaluate models of events: one probe needs next-token logits, one needs nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from provenlm.core.audit import Check, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec


@dataclass(frozen=True)
class ToyEventsEvalConfig:
    """Configure the number of records to evaluate."""

    num_records: int = 4


def make_probes(config: ToyEventsEvalConfig) -> Mapping[str, Probe]:
    """Return the probes `next_event` and `training_records`."""

    def next_event(context: EvalContext, metrics: MetricRecorder) -> None:
        ids_BT = torch.from_numpy(context.tokens.train.ids[: config.num_records].astype("int64"))[None]
        logits_BTV = context.logits(context.model, ids_BT)
        accuracy = float((logits_BTV[:, :-1].argmax(-1) == ids_BT[:, 1:]).float().mean())
        metrics.add_measurement(
            "accuracy", accuracy, "fraction", "Fraction of the first events that are the most probable next event"
        )

    def records_seen(context: EvalContext, metrics: MetricRecorder) -> None:
        metrics.add_count("records", len(context.tokens.train.record_ids), "records", "Records in the training split")

    return {
        "next_event": Probe(next_event, frozenset({"next_token_logits"}), {"accuracy": Check("0..1", "an accuracy is a fraction")}),
        "training_records": Probe(records_seen, frozenset(), {"records": Check("> 0", "the corpus has no training record")}),
    }


SPEC = ValidateSpec(ToyEventsEvalConfig, make_probes)
