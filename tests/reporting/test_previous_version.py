"""What a report remembers of itself: which version is the one before, and what the page says moved."""

import dataclasses
import json
import re

import pytest

from provenlm.core.audit import Metric
from provenlm.core.errors import ProvenlmError
from provenlm.reporting import previous_version
from provenlm.reporting.evidence import AuditFile
from provenlm.reporting.render import RenderedReport, render_report

CITATION = re.compile(r'\[((?:\\.|[^\]\\])*)\]\(([^ )]+) "((?:\\.|[^"\\])*)"\)')
ROWS = {"toy/validate.loss": {"bound": "< toy/validate.bigram", "else": "train longer"}}


@pytest.fixture
def run(source, absent):
    """`run(known, digest, loss=…)`: the report on an audit of that digest, by a report that knew `known`."""

    def run(known: RenderedReport | None, digest: str, **figures: Metric | float) -> RenderedReport:
        audited: AuditFile = source("toy", "validate", **{"bigram": 2.5, **figures}, provenance={"started": f"day {digest}"})
        audited = dataclasses.replace(audited, sha256=digest)
        said = previous_version.load_snapshots(known.files["proof_versions.json"], "w") if known else None
        return render_report("proof", "A proof", [audited], absent("proof", "report"), ROWS, "w", said)

    return run


def section(rendered: RenderedReport) -> str:
    page = rendered.files["proof.md"].decode()
    return CITATION.sub(r"\1", page.split("## Since the version before")[1].split("## Sources")[0])


def test_a_first_report_knows_of_no_version_before(run):
    assert "No version before this one is known." in section(run(None, "aa", loss=2.0))


def test_what_moved_is_told_with_before_now_how_much_and_the_verdicts(run):
    said = section(run(run(None, "aa", loss=3.0), "bb", loss=1.5))
    assert "Compared with the version of day aa, whose verdict was **FAIL**." in said
    assert "| `toy/validate` `loss` | 3 nats | 1.5 nats | −1.5 nats (−50.0%) | **FAIL** → **PASS** |" in said


def test_what_did_not_move_is_not_told(run):
    said = section(run(run(None, "aa", loss=2.0, best=1.0), "bb", loss=2.0, best=0.5))
    assert "`best`" in said and "`loss`" not in said and "`bigram`" not in said
    assert "No figure and no verdict moved." in section(run(run(None, "aa", loss=2.0), "bb", loss=2.0))


def test_a_verdict_that_turned_because_its_limit_moved_is_told(run):
    said = section(run(run(None, "aa", loss=2.0, bigram=2.5), "bb", loss=2.0, bigram=1.5))
    assert re.search(r"`loss` \| 2 nats \| 2 nats \| 0 nats .* \*\*PASS\*\* → \*\*FAIL\*\*", said)


def test_figures_that_came_and_went_are_named(run):
    said = section(run(run(None, "aa", loss=2.0, old=1.0), "bb", loss=2.0, young=1.0))
    assert "New: `toy/validate.young`" in said and "Gone: `toy/validate.old`" in said


def test_checked_figures_are_told_first(run):
    said = section(run(run(None, "aa", early=1.0, loss=2.0), "bb", early=2.0, loss=1.0))
    assert said.index("`loss`") < said.index("`early`")


def test_rendered_again_from_the_same_audits_the_version_before_stays(run):
    second = run(run(None, "aa", loss=3.0), "bb", loss=1.5)
    assert run(second, "bb", loss=1.5).files == second.files
    assert run(run(second, "bb", loss=1.5), "bb", loss=1.5).files == second.files


def test_a_third_version_is_compared_with_the_second(run):
    third = run(run(run(None, "aa", loss=3.0), "bb", loss=2.0), "cc", loss=1.0)
    assert "version of day bb" in section(third) and "| 2 nats | 1 nats |" in section(third)


def test_words_of_an_old_version_cannot_become_markup(run):
    word = Metric("<script>alert()</script>|[x](http://evil)", "", "why it stopped", "counted")
    rendered = run(run(None, "aa", loss=2.0, stopped=word), "bb", loss=2.0, stopped=Metric("done", "", "why", "counted"))
    page = rendered.files["proof.html"].decode()
    assert "<script" not in page and 'href="http' not in page


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"now": {"audits": []}, "before": null}', b"\xff"])
def test_a_damaged_memory_is_refused_with_the_way_out(damage):
    with pytest.raises(ProvenlmError, match="^p_versions.json: not readable: .*remove it"):
        previous_version.load_snapshots(damage, "p_versions.json")


def test_the_memory_is_read_back_as_it_was_written(run):
    data = run(run(None, "aa", loss=3.0), "bb", loss=1.5).files["proof_versions.json"]
    assert previous_version.load_snapshots(data, "w").to_json() == data
    assert json.loads(data)["before"]["figures"] == {"toy/validate.bigram": 2.5, "toy/validate.loss": 3.0}
