"""The page: what stands where, that every number is cited, and that nothing else carries one."""

import ast
import html
import json
import re
from pathlib import Path

import pytest

from provenlm.core.audit import AuditTable, Metric, PlotSeries
from provenlm.core.errors import ProvenlmError
from provenlm.reporting.number_format import exact_repr, format_value
from provenlm.reporting.render import render_report

ROOM = Path(__file__).resolve().parents[2] / "provenlm" / "reporting"
CITATION = re.compile(r'\[((?:\\.|[^\]\\])*)\]\(([^ )]+) "((?:\\.|[^"\\])*)"\)')
CURVE = PlotSeries("loss", "lines", "loss by step", "step", "nats", [1, 2, 3], {"training": [3.0, 2.5, 2.25]})
SAMPLES = AuditTable("samples", "what it writes", ["prompt", "text", "score"], [["a|b", "<b>\nGrüße</b>", 0.5], ["c", "`x`", 1]])
ROWS = {
    "toy/validate.loss": {"bound": "< toy/validate.bigram", "else": "train longer"},
    "words/filter.balance": {"bound": "== 0", "else": "find the lost records"},
    "words/dedupe.twins": {"bound": ">= 0", "else": "run it"},
    "toy/train.parameters": {"bound": "180e6..220e6", "else": "choose another shape"},
}
PROVENANCE = {
    "command": "python -m stages.train toy",
    "params": {"recipes.toy.train": {"steps": 7, "optimizer": {"lr": 0.001}}},
    "params_digest": "cd" * 32,
    "inputs": [["data/words/tokens", "ef" * 32]],
    "outputs": [],
    "code": ["a.py"],
    "code_digest": "12" * 32,
    "commit": "34" * 20,
    "dirty": True,
    "seed": 5,
    "versions": {"python": "3.11"},
}


@pytest.fixture
def sources(source, absent):
    train = source(
        "toy", "train", [CURVE], provenance=PROVENANCE, parameters=Metric(222994944, "parameters", "of the net", "counted")
    )
    checked = source(
        "toy", "validate", [], [SAMPLES], loss=1.9123456, bigram=2.8, expected=Metric(3.4, "nats", "a law", "estimated")
    )
    return [
        source("words", "filter", balance=Metric(0, "records", "lost ones", "counted")),
        absent("words", "dedupe"),
        train,
        checked,
    ]


@pytest.fixture
def own(absent):
    return absent("proof", "report")


def made(sources, own, rows=ROWS):
    return render_report("proof", "A proof", sources, own, rows, "params.yaml: reports.proof.bounds", None)


def page(sources, own, rows=ROWS) -> str:
    return made(sources, own, rows).files["proof.md"].decode()


def test_sections_come_in_the_order_verdict_checks_advice_not_run_stages_what_moved_sources(sources, own):
    headings = re.findall(r"^#+ (.*)$", page(sources, own), re.MULTILINE)
    assert headings == [
        "A proof", "Checks", "Advice", "Not run", "words", "words/filter", "toy", "toy/train", "toy/validate",
        "Since the version before", "Sources", "Source: words/filter", "Source: toy/train", "Source: toy/validate",
    ]  # fmt: skip


def test_the_verdict_stands_on_top_with_the_counts_of_each_status(sources, own):
    line = CITATION.sub(r"\1", page(sources, own).splitlines()[2])
    assert line == "**FAIL** 4 checks: 2 PASS · 1 FAIL · 1 NOT RUN · 0 ESTIMATED · 0 NOT APPLICABLE"


def test_a_check_that_was_not_run_keeps_the_verdict_from_pass(sources, own):
    rows = {name: row for name, row in ROWS.items() if name != "toy/train.parameters"}
    assert page(sources, own, rows).splitlines()[2].startswith("**NOT RUN** ")
    del rows["words/dedupe.twins"]
    assert page(sources, own, rows).splitlines()[2].startswith("**PASS** ")


def test_a_check_shows_its_bound_with_the_value_of_the_limit(sources, own):
    (line,) = [line for line in page(sources, own).splitlines() if "`< toy/validate.bigram`" in line]
    cells = [CITATION.sub(r"\1", cell.strip()) for cell in line.strip("|").split(" | ")]
    assert cells[0] == "**PASS**" and cells[2] == "1.912 nats" and cells[3] == "`< toy/validate.bigram` (2.8 nats)"


def test_advice_is_the_else_of_each_failed_bound_and_of_no_other(sources, own):
    advice = page(sources, own).split("## Advice")[1].split("## Not run")[0].strip()
    assert advice == "- `toy/train.parameters`: choose another shape"


def test_what_was_not_run_is_named_with_the_command_that_runs_it(sources, own):
    absent = page(sources, own).split("## Not run")[1].split("## words")[0].strip()
    assert absent == "- `words/dedupe`: no audit; `dvc repro dedupe@words` writes it"


def test_every_link_into_the_page_finds_its_heading(sources, own):
    result = made(sources, own).files["proof.html"].decode()
    targets = re.findall(r'href="#([^"]*)"', result)
    assert set(targets) <= set(re.findall(r'id="([^"]*)"', result))
    assert {"toyvalidate", "not-run", "source-toytrain"} <= set(targets)


def cited(text: str) -> list[tuple[str, str, str]]:
    """(shown, id, exact value with unit) of every citation of a number."""
    found = [(words, html.unescape(title)) for words, _, title in CITATION.findall(text)]
    return [(words, *title.split(" = ")) for words, title in found if " = " in title]


def test_every_cited_id_resolves_and_its_value_matches(sources, own):
    result = made(sources, own)
    figures = {f"{s.name}.{name}": figure for s in sources if s.audit for name, figure in s.audit.figures.items()}
    figures |= {f"proof/report.{name}": figure for name, figure in result.counts.metrics.items()}
    citations = cited(result.files["proof.md"].decode())
    assert len(citations) > 12
    for words, identity, value in citations:
        figure = figures[identity]
        assert value == f"{exact_repr(figure.value)} {figure.unit}".rstrip()
        assert words.removeprefix("≈ ") == format_value(figure.value, figure.unit)


def test_an_estimate_is_marked_wherever_it_stands(sources, own):
    assert [words for words, identity, _ in cited(page(sources, own)) if identity == "toy/validate.expected"] == ["≈ 3.4 nats"]


def test_no_digit_stands_on_the_page_outside_citations_bounds_audits_text_and_addresses(sources, own):
    """What remains when everything that evidence or params.yaml wrote is taken away is our own prose: it holds no number."""
    rest = page(sources, own).split("## Sources")[0]
    rest = re.sub(r"`[^`]*`", "", CITATION.sub("", re.sub(r"!\[[^\]]*\]\([^)]*\)", "", rest)))
    rest = re.sub(r"^(\| (prompt|---|a\\\|b|c) .*|.*: steps \*\*.*)$", "", rest, flags=re.MULTILINE)  # the table and the settings
    assert not re.findall(r".*\d.*", rest)


def digits_in_strings(code: str) -> list[str]:
    """String literals with a digit, in docstrings and format specifications too."""
    return [
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\d", node.value)
    ]


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_no_string_of_this_room_holds_a_digit(path):
    assert digits_in_strings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "planted", ['x = "all 7 probes passed"', 'f"{a} within +11 %"', '"""Reports 200M parameters."""', 'f"{v:.3f}"']
)
def test_a_planted_number_in_a_string_is_seen(planted):
    assert digits_in_strings(planted)


def test_a_table_shows_text_of_others_as_text(sources, own):
    text = page(sources, own)
    assert "| a\\|b | \\<b\\>⏎Grüße\\</b\\> | 0.5 |" in text
    assert "| c | \\`x\\` | 1 |" in text


def test_settings_are_those_that_the_audit_was_made_with(sources, own):
    assert "`recipes.toy.train`: steps **7** · optimizer.lr **0.001**" in page(sources, own)


def test_a_source_names_file_digest_inputs_params_code_commit_and_what_it_ran_on(sources, own):
    block = page(sources, own).split("### Source: toy/train")[1].split("### ")[0]
    titles = [title for _, _, title in CITATION.findall(block)]
    assert titles == ["toy/train", "ab" * 32, "ef" * 32, "cd" * 32, "12" * 32, "34" * 20]
    assert "with uncommitted changes" in block
    assert "command python -m stages.train toy · seed 5 · versions.python 3.11" in block


def test_the_same_audits_give_the_same_bytes(sources, own):
    assert made(sources, own).files == made(sources, own).files


def test_everything_is_utf_8(sources, own):
    for address, data in made(sources, own).files.items():
        assert "Grüße" in data.decode("utf-8") or address not in ("proof.md", "proof.html")


def test_every_plot_is_a_file_that_the_page_shows(sources, own):
    files = made(sources, own).files
    shown_ones = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", files["proof.md"].decode())
    assert shown_ones == ["proof_files/toy-train.loss.svg"] == [address for address in files if address.endswith(".svg")]
    assert files["proof_files/toy-train.loss.svg"].startswith(b"<?xml")


def test_two_series_that_would_share_a_file_are_refused(source, own):
    twins = [PlotSeries(name, "lines", "m", "x", "y", [1], {"a": [1]}) for name in ("a b", "a-b")]
    with pytest.raises(ProvenlmError, match="two series would be drawn into one file"):
        render_report("proof", "t", [source("toy", "train", twins)], own, {}, "w", None)


def test_the_summary_for_programs_says_the_same(sources, own):
    summary = json.loads(made(sources, own).files["proof.json"])
    assert summary["status"] == "FAIL" and summary["checks.not_run"] == 1
    assert [(check["id"], check["status"]) for check in summary["checks"]] == [
        ("toy/validate.loss", "PASS"),
        ("words/filter.balance", "PASS"),
        ("words/dedupe.twins", "NOT RUN"),
        ("toy/train.parameters", "FAIL"),
    ]
    assert summary["checks"][0]["limits"] == [["toy/validate.bigram", 2.8]]
    assert [origin["present"] for origin in summary["sources"]] == [True, False, True, True]


def test_the_summary_keeps_its_leaves_outside_lists_for_dvc(sources, own):
    summary = json.loads(made(sources, own).files["proof.json"])
    assert {key for key, value in summary.items() if not isinstance(value, list)} == {
        "report", "status", "checks.total", "checks.pass", "checks.fail", "checks.not_run", "checks.estimated", "checks.not_applicable",
    }  # fmt: skip


def test_a_report_without_bounds_is_not_run(sources, own):
    assert page(sources, own, {}).splitlines()[2].startswith("**NOT RUN** ")


def test_a_check_of_a_rate_shows_its_ceiling_and_its_chance_level(source, own):
    rate = source("toy", "validate", right=0.75, right__ceiling=0.8333, right__chance=0.0271)
    text = page([rate], own, {"toy/validate.right": {"bound": ">= 0.8", "else": "train longer"}})
    (row,) = [line for line in text.splitlines() if line.startswith("| **FAIL**")]
    assert "(ceiling 0.8333 nats, chance 0.0271 nats)" in re.sub(CITATION, r"\1", row)
