"""Test the map of requirements: no row is missing, every name exists, and every answer cites something that a user sees."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from provenlm.cli.main import COMMANDS
from provenlm.core.audit import read_audit
from provenlm.reporting.evidence import split_metric_id
from provenlm.reporting.markdown import slug

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "tests" / "requirements.md"
LAST_IDS = {0: 19, 1: 26, 2: 52, 3: 21, 4: 23}  # the number of rows of each of the five reports
STATUSES = {"ANSWERED", "NOT RUN", "NOT APPLICABLE"}
COMMAND = re.compile(r"(make|dvc|provenlm) .+")


class Row(NamedTuple):
    """Hold one row of the map."""

    id: str
    requirement: str
    evidence: str
    tests: str
    status: str


def rows(page: str) -> Iterator[Row]:
    """Yield the rows of the map."""
    for line in page.splitlines():
        if re.match(r"\| R\d", line):
            yield Row(*(cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")))


ROWS = list(rows(MAP.read_text(encoding="utf-8")))


def names(cell: str) -> list[str]:
    """Return the names in `code` of a cell."""
    return re.findall(r"`([^`]+)`", cell)


@cache
def existing_tests() -> frozenset[str]:
    """Return `file.py::function` of every test."""
    return frozenset(
        f"{path.name}::{node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    )


@cache
def audited_names() -> frozenset[str]:
    """Return the id of every metric, plot and table of the audits in git, and every setting that they record."""
    found: set[str] = set()
    for path in (ROOT / "reports" / "audits").rglob("*.json"):
        audit = read_audit(path)
        content = [*audit.metrics, *(item.name for item in (*audit.series, *audit.tables))]
        found |= {f"{audit.subject}/{audit.stage}.{name}" for name in content}
        table = "recipes" if audit.stage in ("train", "validate") else "corpora"
        found |= {f"{table}.{audit.subject}.{section}.{key}" for section, key, *_ in audit.config}
    return frozenset(found)


@cache
def params() -> Any:
    """Return the content of params.yaml."""
    return YAML(typ="safe", pure=True).load(ROOT / "params.yaml")


def has_setting(name: str) -> bool:
    """Return whether params.yaml contains a key, or an audit records the setting or one below it."""
    value: Any = params()
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            return any(recorded == name or recorded.startswith(f"{name}.") for recorded in audited_names())
        value = value[key]
    return True


def is_command(line: str) -> bool:
    """Return whether a command line names an existing target of make, a command of provenlm, or DVC."""
    tool, _, rest = line.partition(" ")
    if tool == "make":
        return f"\n{rest}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    return tool == "dvc" or rest.split()[0] in COMMANDS


def headings(page: Path) -> set[str]:
    """Return the anchors of a Markdown page."""
    return {slug(line.lstrip("# ")) for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")}


def is_visible(name: str) -> bool:
    """Return whether a name is something that a user sees: a command, section, metric, plot, table, setting or file."""
    if COMMAND.fullmatch(name):
        return is_command(name)
    if "#" in name:
        page, _, anchor = name.partition("#")
        return (ROOT / page).exists() and anchor in headings(ROOT / page)
    return name in audited_names() or has_setting(name) or (ROOT / name).exists()


def lacks_evidence(row: Row) -> bool:
    """Return whether an answered row cites nothing that a user sees and does not say why."""
    return row.status == "ANSWERED" and not names(row.evidence) and not row.evidence.startswith("no metric: ")


def test_every_id_of_the_five_reports_has_one_row_in_order():
    assert [row.id for row in ROWS] == [f"R{report}.{i}" for report, last in LAST_IDS.items() for i in range(1, last + 1)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_name_exists(row):
    assert [name for name in names(row.evidence) if not is_visible(name)] == []
    assert [name for name in names(row.tests) if name not in existing_tests()] == []


def test_every_answer_cites_something_that_a_user_sees():
    assert {row.status for row in ROWS} <= STATUSES
    assert [row.id for row in ROWS if lacks_evidence(row)] == []


def test_every_row_without_an_answer_says_why():
    assert [row.id for row in ROWS if row.status != "ANSWERED" and not re.sub(r"`[^`]+`|\W", "", row.evidence)] == []


@pytest.mark.parametrize(
    ("row", "lacking"),
    [
        (Row("R9.1", "speed", "", "`test_moe.py::test_x`", "ANSWERED"), True),
        (Row("R9.1", "speed", "it is fast", "`test_moe.py::test_x`", "ANSWERED"), True),
        (Row("R9.1", "speed", "no metric: a property of the code", "`test_moe.py::test_x`", "ANSWERED"), False),
        (Row("R9.1", "speed", "`a/train.mfu`", "", "ANSWERED"), False),
        (Row("R9.1", "speed", "no model yet", "`test_moe.py::test_x`", "NOT RUN"), False),
    ],
)
def test_a_planted_row_that_cites_tests_alone_is_found(row, lacking):
    assert lacks_evidence(row) is lacking


@pytest.mark.parametrize(
    "name",
    [
        "docs_moe/validate.val.bits_per_bite",
        "no_recipe/train.steps",
        "test_moe.py::test_the_minimised_loss_is_the_sum_of_its_weighted_terms",  # a test, which no user sees
        "recipes.docs_moe.train.warmth",
        "reports/docs_verification.md#praise",
        "provenlm/reporting/prose.py",
        "make praise",
        "provenlm praise",
    ],
)
def test_a_planted_name_that_does_not_exist_is_found(name):
    assert not is_visible(name) and name.replace("sum", "s") not in existing_tests()


def test_a_planted_missing_row_is_found():
    page = MAP.read_text(encoding="utf-8")
    assert [row.id for row in rows(re.sub(r"\| R2\.7 .*\n", "", page))] != [row.id for row in ROWS]


def test_a_metric_is_looked_up_in_its_own_audit():
    metric = "docs_moe/validate.val.bits_per_byte"
    assert is_visible(metric) and split_metric_id(metric) == ("docs_moe/validate", "val.bits_per_byte")
    assert not is_visible(metric.replace("validate", "train"))
