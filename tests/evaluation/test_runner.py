import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.evaluation.runner import run_probes


def passing_probe(context, metrics):
    metrics.add_count("one", 1, "", "a figure")


def raising_probe(context, metrics):
    metrics.add_count("half", 1, "", "said before the fault")
    raise TypeError("two\nlines")


def metric_values(audit):
    return {name: metric.value for name, metric in audit.metrics.items()}


def test_figures_stand_under_the_name_of_their_probe(trained_context):
    audit = MetricRecorder()
    run_probes(trained_context, {"a": passing_probe, "b.c": passing_probe}, audit)
    assert metric_values(audit) == {"a.one": 1, "b.c.one": 1, "eval.num_probes": 2, "eval.failures": 0}


def test_a_probe_that_raises_is_named_counted_and_shown_and_the_others_go_on(trained_context, capsys):
    audit = MetricRecorder()
    run_probes(trained_context, {"a": raising_probe, "b": passing_probe}, audit)
    assert metric_values(audit) == {"a.error": "TypeError: two lines", "b.one": 1, "eval.num_probes": 2, "eval.failures": 1}
    printed = "".join(capsys.readouterr())
    assert "Traceback" in printed
    assert "TypeError: two" in printed


@pytest.mark.parametrize("error", [ProvenlmError("params"), KeyboardInterrupt()])
def test_a_users_mistake_and_a_users_interrupt_end_the_run(trained_context, error):
    def interrupting_probe(context, metrics):
        raise error

    with pytest.raises(type(error)):
        run_probes(trained_context, {"a": interrupting_probe, "b": passing_probe}, MetricRecorder())


def test_the_net_is_asked_in_eval_mode(trained_context):
    def record_mode(context, metrics):
        metrics.add_count("training", int(context.model.training), "", "whether dropout is on")

    trained_context.model.train()
    audit = MetricRecorder()
    run_probes(trained_context, {"a": record_mode}, audit)
    assert audit.metrics["a.training"].value == 0


def test_each_probe_has_a_row_with_its_time(trained_context):
    audit = MetricRecorder()
    run_probes(trained_context, {"a": passing_probe, "b": raising_probe}, audit)
    assert [(row[0], row[1]) for row in audit.tables[-1].rows] == [("a", 1), ("b", 1)]
