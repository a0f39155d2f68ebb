import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.evaluation.runner import run_probes


def fine(subject, figures):
    figures.counted("one", 1, "", "a figure")


def raising(subject, figures):
    figures.counted("half", 1, "", "said before the fault")
    raise TypeError("two\nlines")


def values(audit):
    return {name: figure.value for name, figure in audit.figures.items()}


def test_figures_stand_under_the_name_of_their_probe(good):
    audit = MetricRecorder()
    run_probes(good, {"a": fine, "b.c": fine}, audit)
    assert values(audit) == {"a.one": 1, "b.c.one": 1, "probes": 2, "errors": 0}


def test_a_probe_that_raises_is_named_counted_and_shown_and_the_others_go_on(good, capsys):
    audit = MetricRecorder()
    run_probes(good, {"a": raising, "b": fine}, audit)
    assert values(audit) == {"a.error": "TypeError: two lines", "b.one": 1, "probes": 2, "errors": 1}
    printed = "".join(capsys.readouterr())
    assert "Traceback" in printed
    assert "TypeError: two" in printed


@pytest.mark.parametrize("error", [ProvenlmError("params"), KeyboardInterrupt()])
def test_a_users_mistake_and_a_users_interrupt_end_the_run(good, error):
    def ending(subject, figures):
        raise error

    with pytest.raises(type(error)):
        run_probes(good, {"a": ending, "b": fine}, MetricRecorder())


def test_the_net_is_asked_in_eval_mode(good):
    def mode(subject, figures):
        figures.counted("training", int(subject.model.training), "", "whether dropout is on")

    good.model.train()
    audit = MetricRecorder()
    run_probes(good, {"a": mode}, audit)
    assert audit.metrics["a.training"].value == 0


def test_each_probe_has_a_row_with_its_time(good):
    audit = MetricRecorder()
    run_probes(good, {"a": fine, "b": raising}, audit)
    assert [(row[0], row[1]) for row in audit.tables[-1].rows] == [("a", 1), ("b", 1)]
