"""Whether a net may be called trained: every precondition, planted one by one."""

import pytest

from provenlm.core.audit import Metric, MetricRecorder
from provenlm.evaluation.trained_check import record_trained_check

GOOD = {
    "learned.trainable": 2_384,
    "learned.unmoved": 0,
    "learned.moved": 0.8,
    "heldout.documents": 12,
    "heldout.nats": 2.0,
    "heldout.unigram.nats": 3.0,
    "training.nats": 1.0,
    "training.unigram.nats": 3.1,
}


def judged(steps: int = 100, **changed: object) -> Metric:
    values = {**GOOD, **{name.replace("__", "."): value for name, value in changed.items()}}
    recorder = MetricRecorder()
    for name, value in values.items():
        if value is not None:
            recorder.add_measurement(name, value, "", "")
    record_trained_check(recorder, steps)
    return recorder.metrics["trained"]


def test_a_net_that_meets_every_condition_is_trained_and_the_figure_says_why():
    assert judged().value == 1
    assert judged().description == (
        "whether this net may be called trained: yes: 2,384 trainable parameters; 100 updates were applied; "
        "parameters moved by 0.8 of their length; held-out loss 2 nats against 3 of the unigram baseline"
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"learned__trainable": 0}, "no: 0 trainable parameters"),
        ({"steps": 0}, "no: 0 updates were applied"),
        ({"learned__moved": 0.0, "learned__unmoved": 14}, "parameters moved by 0 of their length, 14 tensors did not move"),
        ({"heldout__nats": 3.0}, "held-out loss 3 nats against 3 of the unigram baseline"),
        ({"heldout__nats": "nan"}, "held-out loss not measured nats"),
        ({"heldout__nats": None}, "held-out loss not measured nats"),
        ({"heldout__unigram__nats": None}, "against not measured of the unigram"),
        ({"learned__trainable": None}, "no: not measured trainable parameters"),
    ],
)
def test_each_missing_condition_is_named_and_enough_to_say_no(changed, reason):
    figure = judged(**changed)
    assert figure.value == 0
    assert reason in figure.description


def test_where_nothing_is_held_out_the_training_loss_is_judged_and_that_is_said():
    figure = judged(heldout__documents=0, heldout__nats=None, heldout__unigram__nats=None)
    assert figure.value == 1
    assert "training loss (the corpus holds nothing out) 1 nats against 3.1" in figure.description
    assert judged(heldout__documents=0, training__nats=3.2).value == 0
