"""Test that the runner decides which probes apply, and that no probe can decide it."""

from dataclasses import replace

import pytest

from provenlm.core.audit import NOT_APPLICABLE, Check, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.evaluation.probe import CONDITIONS, Probe, available_needs
from provenlm.evaluation.runner import run_probes
from provenlm.models.common.spec import CAPABILITIES

ALL_MET = available_needs(frozenset(CAPABILITIES), dict.fromkeys(CONDITIONS, True), {})
NO_LOGITS = {**ALL_MET, "next_token_logits": "the model has no capability next_token_logits"}


def record_one(context, metrics):
    metrics.add_count("one", 1, "", "One")


def record_and_raise(context, metrics):
    metrics.add_count("half", 1, "", "Recorded before the exception")
    raise TypeError("two\nlines")


def metric_values(recorder):
    return {name: metric.value for name, metric in recorder.metrics.items()}


def run(context, probes, available=ALL_MET):
    recorder = MetricRecorder()
    run_probes(context, probes, recorder, available)
    return recorder


def test_metrics_are_recorded_under_the_name_of_their_probe(trained_context):
    values = metric_values(run(trained_context, {"a": Probe(record_one), "b.c": Probe(record_one)}))
    assert values == {"a.one": 1, "b.c.one": 1, "eval.num_probes": 2, "eval.not_applicable": 0, "eval.failures": 0}


def test_a_probe_that_raises_is_counted_and_logged_and_the_others_run(trained_context, capsys, caplog):
    recorder = run(trained_context, {"a": Probe(record_and_raise), "b": Probe(record_one)})
    values = metric_values(recorder)
    assert (values["a.error"], values["b.one"], values["eval.failures"]) == ("TypeError: two lines", 1, 1)
    assert "a.half" not in values
    printed = "".join(capsys.readouterr()) + caplog.text
    assert "Traceback" in printed
    assert "TypeError: two" in printed


@pytest.mark.parametrize("error", [ProvenlmError("params"), KeyboardInterrupt()])
def test_a_mistake_of_the_user_and_an_interrupt_end_the_run(trained_context, error):
    def interrupt(context, metrics):
        raise error

    with pytest.raises(type(error)):
        run(trained_context, {"a": Probe(interrupt), "b": Probe(record_one)})


def test_probes_run_on_the_model_in_eval_mode(trained_context):
    def record_mode(context, metrics):
        metrics.add_count("training", int(context.model.training), "", "Whether dropout is on")

    trained_context.model.train()
    assert run(trained_context, {"a": Probe(record_mode)}).metrics["a.training"].value == 0


def test_a_probe_with_an_unmet_need_is_not_called_and_the_reason_names_it(trained_context):
    def fail(context, metrics):
        raise AssertionError("a probe that does not apply must not be called")

    recorder = run(trained_context, {"a": Probe(fail, frozenset({"next_token_logits"}))}, NO_LOGITS)
    assert recorder.not_applicable == {"a": "the model has no capability next_token_logits"}
    assert metric_values(recorder) == {"eval.num_probes": 1, "eval.not_applicable": 1, "eval.failures": 0}


def test_every_unmet_need_is_named(trained_context):
    available = {**NO_LOGITS, "validation_split": CONDITIONS["validation_split"]}
    recorder = run(trained_context, {"a": Probe(record_one, frozenset({"next_token_logits", "validation_split"}))}, available)
    assert recorder.not_applicable["a"] == "the model has no capability next_token_logits; the validation split is empty"


def declare_not_applicable(context, metrics):
    metrics.add_not_applicable("one", "because I say so")


def record_not_applicable(context, metrics):
    metrics.add_measurement("one", NOT_APPLICABLE, "", "One")


def record_nothing(context, metrics):
    pass


@pytest.mark.parametrize("function", [declare_not_applicable, record_not_applicable, record_nothing])
def test_a_probe_cannot_excuse_itself(trained_context, function):
    recorder = run(trained_context, {"a": Probe(function)})
    assert recorder.not_applicable == {}
    assert recorder.metrics["eval.failures"].value == 1
    assert recorder.metrics["a.error"].value.startswith(("TypeError", "ValueError"))


def test_a_probe_of_an_offered_capability_that_fails_is_a_failure(trained_context):
    recorder = run(trained_context, {"a": Probe(record_and_raise, frozenset({"next_token_logits"}))})
    assert recorder.not_applicable == {}
    assert recorder.metrics["eval.failures"].value == 1


def test_checks_are_recorded_whether_a_probe_ran_failed_or_does_not_apply(trained_context):
    probe = Probe(record_one, checks={"one": Check("== 1", "hint")})
    probes = {
        "ran": probe,
        "failed": replace(probe, run=record_and_raise),
        "absent": replace(probe, needs=frozenset({"next_token_logits"})),
    }
    recorder = run(trained_context, probes, NO_LOGITS)
    assert {name: recorder.checks[f"{name}.one"] for name in probes} == dict.fromkeys(probes, Check("== 1", "hint"))
    assert recorder.checks["eval.failures"].expect == "== 0"


def test_an_unknown_need_is_refused(trained_context):
    with pytest.raises(ValueError, match="probe a: unknown need 'logit'"):
        run(trained_context, {"a": Probe(record_one, frozenset({"logit"}))})


def test_each_probe_has_a_row_with_its_outcome(trained_context):
    probes = {"a": Probe(record_one), "b": Probe(record_and_raise), "c": Probe(record_one, frozenset({"next_token_logits"}))}
    (table,) = run(trained_context, probes, NO_LOGITS).tables
    assert [row[:3] for row in table.rows] == [("a", "measured", 1), ("b", "failed", 1), ("c", "not applicable", 0)]


def test_needs_map_to_the_reasons_why_they_are_not_met():
    conditions = {**dict.fromkeys(CONDITIONS, True), "validation_split": False, "hf_format": "Mixtral has no expert bias"}
    needs = available_needs(frozenset({"blocks"}), conditions, {"brackets": "no brackets"})
    assert needs["blocks"] is None and needs["kv_cache"] == "the model has no capability kv_cache"
    assert needs["validation_split"] == "the validation split is empty"
    assert needs["hf_format"] == "Mixtral has no expert bias"
    assert needs["brackets"] == "no brackets"
    assert needs["random_init"] is None


def test_a_stage_must_decide_every_condition():
    with pytest.raises(ValueError, match="validation_split"):
        available_needs(frozenset(), {name: True for name in CONDITIONS if name != "validation_split"}, {})


def test_a_domain_cannot_redefine_a_need():
    with pytest.raises(ValueError, match="'kv_cache'"):
        available_needs(frozenset(), dict.fromkeys(CONDITIONS, True), {"kv_cache": None})
