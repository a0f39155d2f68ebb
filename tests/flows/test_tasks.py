"""Test how flows show progress lines and report pages, without running a stage."""

import base64
import io

import pytest

from flows import dvc_runner, progress, tasks

FIELDS = {"label": "train", "done": 40, "total": 100, "unit": "steps", "postfix": "loss 3.1"}


@pytest.fixture
def lines(monkeypatch):
    """Collect the lines of a relay without a terminal, which writes every progress line."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    return []


def test_progress_without_a_terminal_is_a_line(lines):
    progress.ProgressRelay(lines.append, is_terminal=False).update(FIELDS)
    assert lines == ["train: 40 of 100 steps loss 3.1"]


def test_progress_without_a_total_shows_no_total(lines):
    progress.ProgressRelay(lines.append, is_terminal=False).update({**FIELDS, "total": None, "postfix": ""})
    assert lines == ["train: 40 steps"]


def test_frequent_progress_is_printed_rarely():
    lines = []
    relay = progress.ProgressRelay(lines.append, is_terminal=False)
    for done in range(1000):
        relay.update({**FIELDS, "done": done})
    assert lines == []


def test_progress_on_a_terminal_is_a_bar_and_no_line(monkeypatch):
    lines, terminal = [], io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    relay = progress.ProgressRelay(lines.append, is_terminal=True)
    relay.update(FIELDS)
    relay.update({**FIELDS, "done": 60, "total": 120})
    relay.close()
    assert lines == []
    assert "train:  40%" in terminal.getvalue() and "60/120" in terminal.getvalue() and "loss 3.1" in terminal.getvalue()


def test_images_are_embedded_and_links_to_files_become_text(tmp_path):
    (tmp_path / "proof_files").mkdir()
    (tmp_path / "proof_files" / "loss.svg").write_bytes(b"<svg/>")
    far = "[web](https://example.org) ![far](https://example.org/a.svg)"
    text = f'![the loss](proof_files/loss.svg) [`audit`](audits/train.json "loss = 3") ([other](#there)) {far}'
    inside = base64.b64encode(b"<svg/>").decode()
    assert tasks.to_prefect_markdown(text, tmp_path) == f"![the loss](data:image/svg+xml;base64,{inside}) `audit` (other) {far}"


def test_circular_dependencies_are_refused(tmp_path):
    stages = [dvc_runner.PlannedStage("a@x", ("b@x",), True), dvc_runner.PlannedStage("b@x", ("a@x",), True)]
    with pytest.raises(RuntimeError, match="circular dependencies: a@x, b@x"):
        tasks.run_stages(stages, tasks.RunLocation(tmp_path, 1, []))


def test_long_cells_wrap_between_words_and_never_inside_code(tmp_path):
    threshold = "`>= " + 40 * "x" + "`"
    table = f"| Description | Expected |\n| --- | --- |\n| {'word ' * 7}word | {threshold} |\n"
    folded = (
        f"| Description | Expected |\n| --- | --- |\n| {'word ' * 4}word<br>word word word | {threshold.replace(' ', chr(160))} |\n"
    )
    assert tasks.to_prefect_markdown(table, tmp_path) == folded


def test_the_description_of_a_metric_is_below_its_name(tmp_path):
    head = "| Status | Metric | Expected | Description |\n| --- | --- | --- | --- |\n"
    table = f"text\n\n{head}| **PASS** | `loss` | `< 3` | {'word ' * 15}word |\n| **FAIL** | `a` `b` | `== 1` |  |\n\ntext"
    narrow = "| Status | Metric | Expected |\n| --- | --- | --- |\n"
    rows = f"| **PASS** | `loss`<br>{'word ' * 9}word<br>{'word ' * 5}word | `<\u00a03` |\n| **FAIL** | `a` `b` | `==\u00a01` |"
    assert tasks.to_prefect_markdown(table, tmp_path) == f"text\n\n{narrow}{rows}\n\ntext"
