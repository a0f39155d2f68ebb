"""Test the page: its sections, the citation of every number and the absence of all other numbers."""

import ast
import html
import json
import re
from pathlib import Path

import pytest

from provenlm.core.audit import AuditTable, Metric, PlotSeries
from provenlm.core.errors import DataError
from provenlm.reporting.number_format import exact_repr, format_value
from provenlm.reporting.render import render_report

PACKAGE = Path(__file__).resolve().parents[2] / "provenlm" / "reporting"
CITATION = re.compile(r'\[((?:\\.|[^\]\\])*)\]\(([^ )]+) "((?:\\.|[^"\\])*)"\)')
CURVE = PlotSeries("loss", "line", "loss by step", "step", "nats", [1, 2, 3], {"training": [3.0, 2.5, 2.25]})
SAMPLES = AuditTable("samples", "generated samples", ["prompt", "text", "score"], [["a|b", "<b>\nGrüße</b>", 0.5], ["c", "`x`", 1]])
CHECKS = {
    "toy/validate.loss": {"expect": "< toy/validate.bigram", "hint": "train longer"},
    "words/filter.unaccounted": {"expect": "== 0", "hint": "find the lost records"},
    "words/dedupe.duplicates.near": {"expect": ">= 0", "hint": "run it"},
    "toy/train.parameters": {"expect": "180e6..220e6", "hint": "choose another shape"},
}
SETTINGS = [
    ["train", "max_steps", 7, False],
    ["train", "seed", None, True],
    ["train", "optimizer.lr", 0.001, True],
    ["train", "loggers", [], True],
]
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
def sources(make_audit_file, make_missing_file):
    train = make_audit_file(
        "toy",
        "train",
        [CURVE],
        provenance=PROVENANCE,
        config=SETTINGS,
        parameters=Metric(222994944, "parameters", "of the model", "counted"),
    )
    checked = make_audit_file(
        "toy", "validate", [], [SAMPLES], loss=1.9123456, bigram=2.8, expected=Metric(3.4, "nats", "a scaling law", "estimated")
    )
    return [
        make_audit_file("words", "filter", unaccounted=Metric(0, "records", "unaccounted records", "counted")),
        make_missing_file("words", "dedupe"),
        train,
        checked,
    ]


@pytest.fixture
def own_audit(make_missing_file):
    return make_missing_file("proof", "report")


def rendered(sources, own_audit, rows=CHECKS):
    return render_report("proof", "A proof", sources, own_audit, rows, "params.yaml: reports.proof.checks", None)


def page(sources, own_audit, rows=CHECKS) -> str:
    return rendered(sources, own_audit, rows).files["proof.md"].decode()


def test_sections_come_in_a_fixed_order(sources, own_audit):
    headings = re.findall(r"^#+ (.*)$", page(sources, own_audit), re.MULTILINE)
    assert headings == [
        "A proof", "Checks", "Hints", "Not run", "words", "words/filter", "toy", "toy/train", "toy/validate",
        "Settings", "Settings: toy/train", "Changes since the previous version", "Audits", "Audit: words/filter", "Audit: toy/train", "Audit: toy/validate",
    ]  # fmt: skip


def test_the_page_starts_with_the_verdict_and_the_count_per_status(sources, own_audit):
    line = CITATION.sub(r"\1", page(sources, own_audit).splitlines()[2])
    assert line == "**FAIL** 4 checks: 2 PASS · 1 FAIL · 1 NOT RUN · 0 ESTIMATED · 0 NOT APPLICABLE"


def test_the_page_says_how_many_checks_are_standard_and_how_many_custom(make_audit_file, own_audit):
    train = make_audit_file("toy", "train", loss=1.0, checks={"loss": ("< 2", "")})
    text = page([train], own_audit, ["standard", {"toy/train.loss": {"expect": "< 3", "hint": ""}}])
    assert "Checks: standard (1 checks) and custom (1 checks)." in CITATION.sub(r"\1", text)


def test_a_check_that_was_not_run_prevents_the_verdict_pass(sources, own_audit):
    rows = {name: row for name, row in CHECKS.items() if name != "toy/train.parameters"}
    assert page(sources, own_audit, rows).splitlines()[2].startswith("**NOT RUN** ")
    del rows["words/dedupe.duplicates.near"]
    assert page(sources, own_audit, rows).splitlines()[2].startswith("**PASS** ")


def test_a_check_shows_its_threshold_with_the_value_of_the_operand(sources, own_audit):
    (line,) = [line for line in page(sources, own_audit).splitlines() if "`< toy/validate.bigram`" in line]
    cells = [CITATION.sub(r"\1", cell.strip()) for cell in line.strip("|").split(" | ")]
    assert cells[0] == "**PASS**" and cells[2] == "1.912 nats" and cells[3] == "`< toy/validate.bigram` (2.8 nats)"


def test_hints_are_those_of_the_failed_checks_only(sources, own_audit):
    hints = page(sources, own_audit).split("## Hints")[1].split("## Not run")[0].strip()
    assert hints == "- `toy/train.parameters`: choose another shape"


def test_a_missing_stage_is_listed_with_the_command_that_runs_it(sources, own_audit):
    absent = page(sources, own_audit).split("## Not run")[1].split("## words")[0].strip()
    assert absent == "- `words/dedupe`: no audit; `dvc repro dedupe@words` writes it"


def test_every_link_into_the_page_finds_its_heading(sources, own_audit):
    result = rendered(sources, own_audit).files["proof.html"].decode()
    targets = re.findall(r'href="#([^"]*)"', result)
    assert set(targets) <= set(re.findall(r'id="([^"]*)"', result))
    assert {"toyvalidate", "not-run", "audit-toytrain"} <= set(targets)


def cited_values(text: str) -> list[tuple[str, str, str]]:
    """Return (displayed text, id, exact value with unit) of every citation of a number."""
    citations = [(words, html.unescape(title)) for words, _, title in CITATION.findall(text)]
    return [(words, *title.split(" = ")) for words, title in citations if " = " in title]


def test_every_cited_id_resolves_and_its_value_matches(sources, own_audit):
    result = rendered(sources, own_audit)
    metrics = {f"{s.name}.{name}": metric for s in sources if s.audit for name, metric in s.audit.metrics.items()}
    metrics |= {f"proof/report.{name}": metric for name, metric in result.counts.metrics.items()}
    citations = cited_values(result.files["proof.md"].decode())
    assert len(citations) > 12
    for words, metric_id, value in citations:
        metric = metrics[metric_id]
        assert value == f"{exact_repr(metric.value)} {metric.unit}".rstrip()
        assert words.removeprefix("≈ ") == format_value(metric.value, metric.unit)


def test_an_estimate_is_marked_in_every_citation(sources, own_audit):
    assert [words for words, metric_id, _ in cited_values(page(sources, own_audit)) if metric_id == "toy/validate.expected"] == [
        "≈ 3.4 nats"
    ]


def test_the_prose_of_the_page_contains_no_digit(sources, own_audit):
    """Remove all text from audits and params.yaml: the remaining prose contains no digit."""
    rest = page(sources, own_audit).split("## Audits")[0]
    rest = re.sub(r"`[^`]*`", "", CITATION.sub("", re.sub(r"!\[[^\]]*\]\([^)]*\)", "", rest)))
    rest = re.sub(r"^(\| (prompt|---|a\\\|b|c) .*|.*: \*\*max.*)$", "", rest, flags=re.MULTILINE)  # the table and the configuration
    assert not re.findall(r".*\d.*", rest)


def digits_in_strings(code: str) -> list[str]:
    """Return string literals with a digit, including docstrings and format specifications."""
    return [
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\d", node.value)
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_no_string_of_the_reporting_package_contains_a_digit(path):
    assert digits_in_strings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "planted", ['x = "all 7 probes passed"', 'f"{a} within +11 %"', '"""Reports 200M parameters."""', 'f"{v:.3f}"']
)
def test_a_planted_number_in_a_string_is_found(planted):
    assert digits_in_strings(planted)


def test_a_table_shows_external_text_as_text(sources, own_audit):
    text = page(sources, own_audit)
    assert "| a\\|b | \\<b\\>⏎Grüße\\</b\\> | 0.5 |" in text
    assert "| c | \\`x\\` | 1 |" in text


def test_the_page_shows_the_configuration_recorded_in_the_audit(sources, own_audit):
    line = "`train`: **max\\_steps \\= 7** · seed \\= null · optimizer.lr \\= 0.001 · loggers \\= none"
    assert line in CITATION.sub(r"\1", page(sources, own_audit))


def test_a_section_that_two_stages_read_is_shown_once(make_audit_file, own_audit):
    files = [make_audit_file("toy", stage, config=SETTINGS, loss=1.0) for stage in ("train", "validate")]
    text = CITATION.sub(r"\1", page([*files, make_audit_file("other", "train", config=SETTINGS, loss=1.0)], own_audit, {}))
    assert (text.count("`train`: **max"), text.count("`train`: as above")) == (2, 1)


def test_the_page_shows_the_provenance_of_each_audit(sources, own_audit):
    block = page(sources, own_audit).split("### Audit: toy/train")[1].split("### ")[0]
    titles = [title for _, _, title in CITATION.findall(block)]
    assert titles == ["toy/train", "ab" * 32, "ef" * 32, "cd" * 32, "12" * 32, "34" * 20]
    assert "with uncommitted changes" in block
    assert "command python -m stages.train toy · seed 5 · versions.python 3.11" in block


def test_the_same_audits_give_the_same_bytes(sources, own_audit):
    assert rendered(sources, own_audit).files == rendered(sources, own_audit).files


def test_everything_is_utf_8(sources, own_audit):
    for address, data in rendered(sources, own_audit).files.items():
        assert "Grüße" in data.decode("utf-8") or address not in ("proof.md", "proof.html")


def test_every_plot_is_a_file_that_the_page_embeds(sources, own_audit):
    files = rendered(sources, own_audit).files
    embedded = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", files["proof.md"].decode())
    assert embedded == ["proof_files/toy-train.loss.svg"] == [address for address in files if address.endswith(".svg")]
    assert files["proof_files/toy-train.loss.svg"].startswith(b"<?xml")


def test_two_series_with_one_file_name_are_refused(make_audit_file, own_audit):
    series = [PlotSeries(name, "line", "m", "x", "y", [1], {"a": [1]}) for name in ("a b", "a-b")]
    with pytest.raises(DataError, match="plot file names must be unique"):
        render_report("proof", "t", [make_audit_file("toy", "train", series)], own_audit, {}, "w", None)


def test_the_json_summary_contains_the_same_checks(sources, own_audit):
    summary = json.loads(rendered(sources, own_audit).files["proof.json"])
    assert summary["status"] == "FAIL" and summary["checks.not_run"] == 1
    assert [(check["id"], check["status"]) for check in summary["checks"]] == [
        ("toy/validate.loss", "PASS"),
        ("words/filter.unaccounted", "PASS"),
        ("words/dedupe.duplicates.near", "NOT RUN"),
        ("toy/train.parameters", "FAIL"),
    ]
    assert summary["checks"][0]["operands"] == [["toy/validate.bigram", 2.8]]
    assert [entry["present"] for entry in summary["audits"]] == [True, False, True, True]


def test_the_json_summary_shows_only_counts_to_dvc_metrics(sources, own_audit):
    summary = json.loads(rendered(sources, own_audit).files["proof.json"])
    assert {key for key, value in summary.items() if not isinstance(value, list)} == {
        "report", "status", "checks.total", "checks.standard", "checks.custom", "checks.pass", "checks.fail", "checks.not_run", "checks.estimated", "checks.not_applicable",
    }  # fmt: skip


def test_a_report_without_checks_is_not_run(sources, own_audit):
    assert page(sources, own_audit, {}).splitlines()[2].startswith("**NOT RUN** ")


def test_a_check_of_a_rate_shows_its_ceiling_and_chance_level(make_audit_file, own_audit):
    rate = make_audit_file("toy", "validate", accuracy=0.75, accuracy__ceiling=0.8333, accuracy__chance=0.0271)
    text = page([rate], own_audit, {"toy/validate.accuracy": {"expect": ">= 0.8", "hint": "train longer"}})
    (row,) = [line for line in text.splitlines() if line.startswith("| **FAIL**")]
    assert "(ceiling 0.8333 nats, chance 0.0271 nats)" in re.sub(CITATION, r"\1", row)
