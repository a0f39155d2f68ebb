import json

import pytest

from provenlm.core import audit
from provenlm.core.errors import UserError


def made() -> audit.Audit:
    recorder = audit.Recorder()
    recorder.counted("records", 3, "records", "how many")
    with recorder.under("loss") as inner:
        inner.measured("last", 1.5, "nats/token", "at the end")
        inner.series.append(audit.Series("curve", "lines", "falling", "step", "loss", [1, 2], {"train": [2.0, 1.5]}))
        inner.tables.append(audit.Table("worst", "largest losses", ["id", "loss"], [["Jürgen", 9.0]]))
    return audit.Audit("s", "train", recorder.figures, recorder.series, recorder.tables, {"command": "c"})


def test_an_audit_is_read_back_as_it_was_written(tmp_path):
    audit.write(tmp_path / "a.json", made())
    again = audit.read(tmp_path / "a.json")
    assert again.figures == made().figures
    assert again.series[0].name == "loss.curve" and again.tables[0].rows == [["Jürgen", 9.0]]
    assert again.provenance == {"command": "c"}


def test_the_same_audit_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        audit.write(tmp_path / name, made())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dvc_sees_the_figures_and_nothing_else(tmp_path):
    audit.write(tmp_path / "a.json", made())
    raw = json.loads((tmp_path / "a.json").read_text())
    seen = {key: value for key, value in raw.items() if isinstance(value, dict)}
    assert seen == {"figures": {"records": 3, "loss.last": 1.5}}


def test_a_figure_said_twice_is_an_error():
    recorder = audit.Recorder()
    recorder.counted("x", 1, "", "")
    with pytest.raises(ValueError, match="figure 'x' recorded twice"):
        recorder.counted("x", 2, "", "")


def test_a_value_that_is_not_finite_is_kept_as_a_word(tmp_path):
    figures = {"loss": audit.Figure(float("nan"), "nats", "lost", "measured")}
    audit.write(tmp_path / "a.json", audit.Audit("s", "t", figures, [], [], {}))
    assert audit.read(tmp_path / "a.json").figures["loss"].value == "nan"


@pytest.mark.parametrize("text", ["", "{}", '{"figures": {"a": 1}, "described": []}'])
def test_a_damaged_audit_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json: not a readable audit"):
        audit.read(tmp_path / "a.json")


def test_a_figure_without_a_description_is_refused(tmp_path):
    audit.write(tmp_path / "a.json", made())
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace('"records": 3', '"records": 3, "extra": 4'))
    with pytest.raises(UserError, match="descriptions differ: \\['extra'\\]"):
        audit.read(tmp_path / "a.json")
