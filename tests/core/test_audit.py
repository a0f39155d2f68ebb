import json

import pytest

from provenlm.core import audit
from provenlm.core.errors import DataError


def sample_audit() -> audit.Audit:
    recorder = audit.MetricRecorder()
    recorder.add_count("records", 3, "records", "how many")
    with recorder.scope("loss") as inner:
        inner.add_measurement("last", 1.5, "nats/token", "at the end")
        inner.series.append(audit.PlotSeries("curve", "line", "falling", "step", "loss", [1, 2], {"train": [2.0, 1.5]}))
        inner.tables.append(audit.AuditTable("worst", "largest losses", ["id", "loss"], [["Jürgen", 9.0]]))
    return audit.Audit("s", "train", recorder.metrics, recorder.series, recorder.tables, {"command": "c"})


def test_an_audit_is_read_back_as_it_was_written(tmp_path):
    audit.write_audit(tmp_path / "a.json", sample_audit())
    reread = audit.read_audit(tmp_path / "a.json")
    assert reread.metrics == sample_audit().metrics
    assert reread.series[0].name == "loss.curve" and reread.tables[0].rows == [["Jürgen", 9.0]]
    assert reread.provenance == {"command": "c"}


def test_the_same_audit_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        audit.write_audit(tmp_path / name, sample_audit())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dvc_shows_the_metrics_and_nothing_else(tmp_path):
    audit.write_audit(tmp_path / "a.json", sample_audit())
    raw = json.loads((tmp_path / "a.json").read_text())
    visible = {key: value for key, value in raw.items() if isinstance(value, dict)}
    assert visible == {"metrics": {"records": 3, "loss.last": 1.5}}


def test_a_metric_recorded_twice_is_an_error():
    recorder = audit.MetricRecorder()
    recorder.add_count("x", 1, "", "")
    with pytest.raises(ValueError, match="metric 'x' recorded twice"):
        recorder.add_count("x", 2, "", "")


def test_a_value_that_is_not_finite_is_stored_as_text(tmp_path):
    metrics = {"loss": audit.Metric(float("nan"), "nats", "lost", "measured")}
    audit.write_audit(tmp_path / "a.json", audit.Audit("s", "t", metrics, [], [], {}))
    assert audit.read_audit(tmp_path / "a.json").metrics["loss"].value == "nan"


@pytest.mark.parametrize("text", ["", "{}", '{"metrics": {"a": 1}, "descriptions": []}'])
def test_a_damaged_audit_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: not a readable audit: "):
        audit.read_audit(tmp_path / "a.json")


def test_checks_reasons_and_settings_are_read_back(tmp_path):
    recorder = audit.MetricRecorder()
    recorder.add_not_applicable("kv_cache", "the model has no kv_cache")
    with recorder.scope("val") as inner:
        inner.add_count("loss", 1, "nats", "loss")
        inner.add_check("loss", "< bigram.loss", "train longer")
    config = [("recipes.a.train", "optimizer.lr", 0.001, True), ("recipes.a.train", "loggers", [], False)]
    written = audit.Audit("s", "t", recorder.metrics, [], [], {}, recorder.checks, recorder.not_applicable, config)
    audit.write_audit(tmp_path / "a.json", written)
    assert audit.read_audit(tmp_path / "a.json") == written
    assert recorder.checks == {"val.loss": audit.Check("< bigram.loss", "train longer")}


def test_a_scoped_recorder_cannot_declare_itself_not_applicable():
    recorder = audit.MetricRecorder()
    with pytest.raises(TypeError, match="only the runner of the probes may call it"), recorder.scope("val") as inner:
        inner.add_not_applicable("loss", "no wish")


def test_a_second_check_on_one_metric_is_an_error():
    recorder = audit.MetricRecorder()
    recorder.add_check("x", "> 0")
    with pytest.raises(ValueError, match="check 'x' recorded twice"):
        recorder.add_check("x", "> 1")


def test_a_metric_without_a_description_is_an_error(tmp_path):
    audit.write_audit(tmp_path / "a.json", sample_audit())
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace('"records": 3', '"records": 3, "extra": 4'))
    with pytest.raises(DataError, match="descriptions differ: \\['extra'\\]"):
        audit.read_audit(tmp_path / "a.json")
