"""Whether a net may be called trained: every precondition, planted one by one."""

import pytest

from provenlm.core.audit import Metric, MetricRecorder
from provenlm.evaluation.trained_check import record_trained_check

PASSING = {
    "updates.trainable_params": 2_384,
    "updates.unchanged_tensors": 0,
    "updates.relative_update": 0.8,
    "val.num_documents": 12,
    "val.loss": 2.0,
    "val.unigram.loss": 3.0,
    "train.loss": 1.0,
    "train.unigram.loss": 3.1,
}


def check_trained(steps: int = 100, **changes: object) -> Metric:
    values = {**PASSING, **{name.replace("__", "."): value for name, value in changes.items()}}
    recorder = MetricRecorder()
    for name, value in values.items():
        if value is not None:
            recorder.add_measurement(name, value, "", "")
    record_trained_check(recorder, steps, {"next_token_logits": None})
    return recorder.metrics["trained_check"]


def test_a_model_that_meets_every_condition_is_trained():
    assert check_trained().value == 1
    assert check_trained().description == (
        "1 if the model may be called trained, 0 if not: yes: 2,384 trainable parameters; 100 updates were applied; "
        "parameters changed by 0.8 of their initial norm; validation loss 2 nats/token, unigram baseline 3"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"updates__trainable_params": 0}, "no: 0 trainable parameters"),
        ({"steps": 0}, "no: 0 updates were applied"),
        (
            {"updates__relative_update": 0.0, "updates__unchanged_tensors": 14},
            "parameters changed by 0 of their initial norm, 14 tensors did not change",
        ),
        ({"val__loss": 3.0}, "validation loss 3 nats/token, unigram baseline 3"),
        ({"val__loss": "nan"}, "validation loss not measured nats/token"),
        ({"val__loss": None}, "validation loss not measured nats/token"),
        ({"val__unigram__loss": None}, "unigram baseline not measured"),
        ({"updates__trainable_params": None}, "no: not measured trainable parameters"),
    ],
)
def test_each_missing_condition_is_named_and_fails_the_check(changes, reason):
    metric = check_trained(**changes)
    assert metric.value == 0
    assert reason in metric.description


def test_without_validation_split_the_training_loss_decides():
    metric = check_trained(val__num_documents=0, val__loss=None, val__unigram__loss=None)
    assert metric.value == 1
    assert "training loss (the validation split is empty) 1 nats/token, unigram baseline 3.1" in metric.description
    assert check_trained(val__num_documents=0, train__loss=3.2).value == 0


def test_the_check_does_not_apply_to_a_model_without_logits():
    recorder = MetricRecorder()
    record_trained_check(recorder, 100, {"next_token_logits": "the model has no capability next_token_logits"})
    assert recorder.not_applicable == {"trained_check": "the model has no capability next_token_logits"}
    assert recorder.metrics == {}
    assert recorder.checks["trained_check"].expect == "== 1"
