"""What a flow makes of a stage's lines and of a report, without running any."""

import base64
import io

import pytest

from flows import dvc_runner, progress, tasks

FIELDS = {"label": "train", "done": 40, "total": 100, "unit": "steps", "postfix": "loss 3.1"}


@pytest.fixture
def said(monkeypatch):
    """Lines that a meter without a terminal says; every progress line is due."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    return []


def test_progress_without_a_terminal_is_a_line(said):
    progress.ProgressRelay(said.append, is_terminal=False).update(FIELDS)
    assert said == ["train: 40 of 100 steps loss 3.1"]


def test_progress_towards_an_unknown_end_names_no_end(said):
    progress.ProgressRelay(said.append, is_terminal=False).update({**FIELDS, "total": None, "postfix": ""})
    assert said == ["train: 40 steps"]


def test_progress_that_comes_often_is_said_seldom():
    said = []
    shown = progress.ProgressRelay(said.append, is_terminal=False)
    for done in range(1000):
        shown.update({**FIELDS, "done": done})
    assert said == []


def test_progress_on_a_terminal_is_a_bar_and_no_line(monkeypatch):
    said, terminal = [], io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    shown = progress.ProgressRelay(said.append, is_terminal=True)
    shown.update(FIELDS)
    shown.update({**FIELDS, "done": 60, "total": 120})
    shown.close()
    assert said == []
    assert "train:  40%" in terminal.getvalue() and "60/120" in terminal.getvalue() and "loss 3.1" in terminal.getvalue()


def test_pictures_of_a_page_are_put_into_it_and_links_to_files_are_words(tmp_path):
    (tmp_path / "proof_files").mkdir()
    (tmp_path / "proof_files" / "loss.svg").write_bytes(b"<svg/>")
    far = "[web](https://example.org) ![far](https://example.org/a.svg)"
    text = f'![the loss](proof_files/loss.svg) [`audit`](audits/train.json "loss = 3") ([other](#there)) {far}'
    inside = base64.b64encode(b"<svg/>").decode()
    assert tasks.to_prefect_markdown(text, tmp_path) == f"![the loss](data:image/svg+xml;base64,{inside}) `audit` (other) {far}"


def test_stages_that_wait_for_each_other_are_named_and_not_waited_for(tmp_path):
    steps = [dvc_runner.PlannedStage("a@x", ("b@x",), True), dvc_runner.PlannedStage("b@x", ("a@x",), True)]
    with pytest.raises(RuntimeError, match="each of these waits for another of them: a@x, b@x"):
        tasks.run_stages(steps, tasks.RunLocation(tmp_path, 1, []))


def test_long_cells_of_a_table_are_broken_between_words_and_never_inside_code(tmp_path):
    bound = "`>= " + 40 * "x" + "`"
    table = f"| Meaning | Bound |\n| --- | --- |\n| {'word ' * 7}word | {bound} |\n"
    folded = f"| Meaning | Bound |\n| --- | --- |\n| {'word ' * 4}word<br>word word word | {bound.replace(' ', chr(160))} |\n"
    assert tasks.to_prefect_markdown(table, tmp_path) == folded


def test_what_a_figure_means_stands_below_its_name(tmp_path):
    head = "| Verdict | Figure | Bound | Meaning |\n| --- | --- | --- | --- |\n"
    table = f"text\n\n{head}| **PASS** | `loss` | `< 3` | {'word ' * 15}word |\n| **FAIL** | `a` `b` | `== 1` |  |\n\ntext"
    narrow = "| Verdict | Figure | Bound |\n| --- | --- | --- |\n"
    rows = f"| **PASS** | `loss`<br>{'word ' * 9}word<br>{'word ' * 5}word | `<\u00a03` |\n| **FAIL** | `a` `b` | `==\u00a01` |"
    assert tasks.to_prefect_markdown(table, tmp_path) == f"text\n\n{narrow}{rows}\n\ntext"
