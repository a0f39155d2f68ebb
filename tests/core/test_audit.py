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
    with pytest.raises(DataError, match=r"a\.json: not a readable audit"):
        audit.read_audit(tmp_path / "a.json")


def test_a_metric_without_a_description_is_an_error(tmp_path):
    audit.write_audit(tmp_path / "a.json", sample_audit())
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace('"records": 3', '"records": 3, "extra": 4'))
    with pytest.raises(DataError, match="descriptions differ: \\['extra'\\]"):
        audit.read_audit(tmp_path / "a.json")
