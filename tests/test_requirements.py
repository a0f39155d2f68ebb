"""The map from what was asked to what answers it: no id is missing, and every name in it leads somewhere."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from provenlm.reporting.evidence import split_metric_id
from provenlm.reporting.markdown import slug

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "docs" / "requirements.md"
LAST = {0: 19, 1: 26, 2: 52, 3: 21, 4: 23}  # the highest number of each of the five reports
STATUSES = {"ANSWERED", "NOT RUN", "NOT APPLICABLE"}
COMMAND = re.compile(r"(make|dvc|python -m) .+")


def rows(page: str) -> Iterator[tuple[str, str, str, str]]:
    """Id, question, answer and status of every row."""
    for line in page.splitlines():
        if re.match(r"\| R\d", line):
            number, requirement, answer, status = (cell.strip() for cell in line.strip("|\n").split("|"))
            yield number, requirement, answer, status


ROWS = list(rows(MAP.read_text(encoding="utf-8")))


def names(answer: str) -> list[str]:
    return re.findall(r"`([^`]+)`", answer)


@cache
def existing_tests() -> frozenset[str]:
    """`file.py::function` of every test."""
    return frozenset(
        f"{path.name}::{node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    )


@cache
def measured_metrics() -> frozenset[str]:
    """The id of every figure, series and table of the audits in git, and of every bound in params.yaml."""
    metrics = {metric for report in params()["reports"].values() for metric in report["checks"]}
    for path in (ROOT / "reports" / "audits").glob("*/*.json"):
        audit = json.loads(path.read_text(encoding="utf-8"))
        metric_names = [*audit["metrics"], *(item["name"] for kind in ("series", "tables") for item in audit[kind])]
        metrics |= {f"{audit['subject']}/{audit['stage']}.{name}" for name in metric_names}
    return frozenset(metrics)


@cache
def params() -> Any:
    return YAML(typ="safe", pure=True).load(ROOT / "params.yaml")


def has_setting(name: str) -> bool:
    value: Any = params()
    for word in name.split("."):
        if not isinstance(value, dict) or word not in value:
            return False
        value = value[word]
    return True


def command(words: str) -> bool:
    tool, _, rest = words.partition(" ")
    if tool == "make":
        return f"\n{rest}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    return tool == "dvc" or (ROOT / f"{rest.split()[1].replace('.', '/')}.py").exists()


def headings(page: Path) -> set[str]:
    return {slug(line.lstrip("# ")) for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")}


def is_resolvable(name: str) -> bool:
    """Whether a name of the map is a command, a test, a heading of a page, a figure, a setting, or a file."""
    if COMMAND.fullmatch(name):
        return command(name)
    if "::" in name:
        return name in existing_tests()
    if "#" in name:
        page, _, anchor = name.partition("#")
        return (ROOT / page).exists() and anchor in headings(ROOT / page)
    return name in measured_metrics() or has_setting(name) or (ROOT / name).exists()


def test_every_id_of_the_five_reports_has_one_row_in_order():
    assert [row[0] for row in ROWS] == [f"R{report}.{i}" for report, last in LAST.items() for i in range(1, last + 1)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_name_leads_somewhere(row):
    assert [name for name in names(row[2]) if not is_resolvable(name)] == []


def test_every_row_has_a_status_and_what_it_asks_of_its_answer():
    assert {status for *_, status in ROWS} <= STATUSES
    assert [number for number, _, answer, status in ROWS if status == "ANSWERED" and not names(answer)] == []
    unexplained = [number for number, _, answer, status in ROWS if status != "ANSWERED" and not re.sub(r"`[^`]+`|\W", "", answer)]
    assert unexplained == []


@pytest.mark.parametrize(
    "name",
    [
        "docs_moe/validate.heldout.bits_per_bite",
        "no_recipe/train.steps",
        "test_moe.py::test_that_nobody_wrote",
        "test_nothing.py::test_the_closed_form_counts_what_is_built",
        "recipes.docs_moe.train.warmth",
        "reports/docs_verification.md#praise",
        "provenlm/reporting/prose.py",
        "make praise",
        "python -m stages.praise",
    ],
)
def test_a_planted_name_that_leads_nowhere_is_seen(name):
    assert not is_resolvable(name)


def test_a_planted_row_that_is_missing_is_seen():
    page = MAP.read_text(encoding="utf-8")
    assert [row[0] for row in rows(re.sub(r"\| R2\.7 .*\n", "", page))] != [row[0] for row in ROWS]


def test_a_figure_is_looked_up_under_its_own_audit():
    metric = "docs_moe/validate.val.bits_per_byte"
    assert is_resolvable(metric) and split_metric_id(metric) == ("docs_moe/validate", "val.bits_per_byte")
    assert not is_resolvable(metric.replace("validate", "train"))
