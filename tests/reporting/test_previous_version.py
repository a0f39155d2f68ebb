"""Test the snapshots of a report: which one is the previous version, and which changes the page shows."""

import dataclasses
import json
import re

import pytest

from provenlm.core.audit import Metric
from provenlm.core.errors import DataError
from provenlm.reporting import previous_version
from provenlm.reporting.checks import CheckResult, CheckStatus
from provenlm.reporting.evidence import AuditFile, AuditSet
from provenlm.reporting.previous_version import make_snapshot
from provenlm.reporting.render import RenderedReport, render_report

CITATION = re.compile(r'\[((?:\\.|[^\]\\])*)\]\(([^ )]+) "((?:\\.|[^"\\])*)"\)')
CHECKS = {"toy/validate.loss": {"expect": "< toy/validate.bigram", "hint": "train longer"}}


@pytest.fixture
def run(make_audit_file, make_missing_file):
    """Call `run(previous, digest, loss=…)`: render the report on an audit with that digest after the report `previous`."""

    def run(previous: RenderedReport | None, digest: str, **metrics: Metric | float) -> RenderedReport:
        audit_file: AuditFile = make_audit_file(
            "toy", "validate", **{"bigram": 2.5, **metrics}, provenance={"started": f"day {digest}"}
        )
        audit_file = dataclasses.replace(audit_file, digest=digest)
        snapshots = previous_version.load_snapshots(previous.files["proof_versions.json"], "w") if previous else None
        return render_report("proof", "A proof", [audit_file], make_missing_file("proof", "report"), CHECKS, "w", snapshots)

    return run


def section(rendered: RenderedReport) -> str:
    page = rendered.files["proof.md"].decode()
    return CITATION.sub(r"\1", page.split("## Changes since the previous version")[1].split("## Audits")[0])


def test_a_first_report_has_no_previous_version(run):
    assert "There is no previous version." in section(run(None, "aa", loss=2.0))


def test_a_change_is_shown_with_both_values_and_both_statuses(run):
    text = section(run(run(None, "aa", loss=3.0), "bb", loss=1.5))
    assert "Compared with the version of day aa; its verdict was **FAIL**." in text
    assert "| `toy/validate` `loss` | 3 nats | 1.5 nats | −1.5 nats (−50.0%) | **FAIL** → **PASS** |" in text


def test_unchanged_metrics_are_not_listed(run):
    text = section(run(run(None, "aa", loss=2.0, best=1.0), "bb", loss=2.0, best=0.5))
    assert "`best`" in text and "`loss`" not in text and "`bigram`" not in text
    assert "No metric and no check changed." in section(run(run(None, "aa", loss=2.0), "bb", loss=2.0))


def test_a_status_that_changed_because_of_its_operand_is_shown(run):
    text = section(run(run(None, "aa", loss=2.0, bigram=2.5), "bb", loss=2.0, bigram=1.5))
    assert re.search(r"`loss` \| 2 nats \| 2 nats \| 0 nats .* \*\*PASS\*\* → \*\*FAIL\*\*", text)


def test_new_and_removed_metrics_are_listed(run):
    text = section(run(run(None, "aa", loss=2.0, old=1.0), "bb", loss=2.0, young=1.0))
    assert "New: `toy/validate.young`" in text and "Removed: `toy/validate.old`" in text


def test_checked_metrics_are_listed_first(run):
    text = section(run(run(None, "aa", early=1.0, loss=2.0), "bb", early=2.0, loss=1.0))
    assert text.index("`loss`") < text.index("`early`")


def test_the_same_audits_keep_the_previous_version(run):
    second = run(run(None, "aa", loss=3.0), "bb", loss=1.5)
    assert run(second, "bb", loss=1.5).files == second.files
    assert run(run(second, "bb", loss=1.5), "bb", loss=1.5).files == second.files


def test_two_checks_on_one_metric_count_with_the_worse_status():
    checks = [CheckResult("toy/train.loss", status, "", "< 1") for status in (CheckStatus.FAIL, CheckStatus.PASS)]
    assert make_snapshot(AuditSet(()), checks).checks == {"toy/train.loss": "FAIL"}


def test_a_third_version_is_compared_with_the_second(run):
    third = run(run(run(None, "aa", loss=3.0), "bb", loss=2.0), "cc", loss=1.0)
    assert "version of day bb" in section(third) and "| 2 nats | 1 nats |" in section(third)


def test_text_of_a_previous_version_cannot_become_markup(run):
    word = Metric("<script>alert()</script>|[x](http://evil)", "", "reason for the end", "counted")
    rendered = run(run(None, "aa", loss=2.0, stopped=word), "bb", loss=2.0, stopped=Metric("done", "", "why", "counted"))
    page = rendered.files["proof.html"].decode()
    assert "<script" not in page and 'href="http' not in page


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"current": {"audits": []}, "previous": null}', b"\xff"])
def test_a_damaged_snapshot_file_is_refused_with_a_remedy(damage):
    with pytest.raises(DataError, match="^p_versions.json: must be a snapshot file, .*delete it"):
        previous_version.load_snapshots(damage, "p_versions.json")


def test_a_snapshot_file_is_read_back_as_it_was_written(run):
    data = run(run(None, "aa", loss=3.0), "bb", loss=1.5).files["proof_versions.json"]
    assert previous_version.load_snapshots(data, "w").to_json() == data
    assert json.loads(data)["previous"]["metrics"] == {"toy/validate.bigram": 2.5, "toy/validate.loss": 3.0}
