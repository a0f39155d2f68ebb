"""Evidence and bounds in; checks, each with a status, and one verdict out. The only place where anything is judged.

A check reads
  PASS            the figure was measured or counted, and its bound admits it;
  ESTIMATED       the bound admits it, but the figure or its limit comes from a formula;
  FAIL            the bound does not admit it, it is no number, or the probe that should have measured it raised an exception;
  NOT RUN         the audit of the figure, or of its limit, is not there;
  NOT APPLICABLE  the figure's value is the words "not applicable": its stage says that the question has no meaning for it.
The verdict is the worst of its checks, in the order FAIL, NOT RUN, ESTIMATED, PASS; without any check it reads NOT RUN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from provenlm.core.audit import Figure, Recorder
from provenlm.core.errors import UserError
from provenlm.reporting.evidence import Evidence, failures
from provenlm.reporting.thresholds import Bound, Number, Wanted

INAPPLICABLE = "not applicable"


class Status(StrEnum):
    """What became of a check, and of a report."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_RUN = "NOT RUN"
    ESTIMATED = "ESTIMATED"
    NOT_APPLICABLE = "NOT APPLICABLE"


WORST_FIRST = (Status.FAIL, Status.NOT_RUN, Status.ESTIMATED, Status.PASS, Status.NOT_APPLICABLE)


@dataclass(frozen=True)
class Check:
    """One figure against its bound. `reason` says why it is not a plain PASS; `bound` is None for a probe that raised.

    `limits` are the figures that the bound names, `beside` the ceiling and the chance level of the figure, where it has them.
    """

    id: str
    status: Status
    reason: str
    bound: Bound | None
    figure: Figure | None
    limits: Mapping[str, Figure]
    beside: Mapping[str, Figure]
    advice: str


def judge(evidence: Evidence, wanted: Mapping[str, Wanted], where: str) -> list[Check]:
    """A check for each bound, in their order, then one for each probe that raised.

    UserError, beginning with `where`, for a bound on a figure that its audit does not hold, and for one above its figure's ceiling.
    """
    checks = [_check(evidence, figure, row, f"{where}.{figure}") for figure, row in wanted.items()]
    return checks + [
        Check(
            name,
            Status.FAIL,
            "the probe raised an exception",
            None,
            figure,
            {},
            {},
            "mend what the probe complains of, or the probe",
        )
        for source in evidence.sources
        for name, figure in failures(source).items()
    ]


def verdict(checks: Sequence[Check]) -> Status:
    """The worst status of `checks`; NOT RUN if there are none."""
    return min((check.status for check in checks), key=WORST_FIRST.index, default=Status.NOT_RUN)


def record(checks: Sequence[Check], recorder: Recorder) -> None:
    """The verdict and the counts of each status as figures, so that the page can cite them like any other."""
    meanings = {
        Status.PASS: "measured or counted, and within the bound",
        Status.FAIL: "outside the bound, not a number, or not measured because the probe raised an exception",
        Status.NOT_RUN: "the audit that holds the figure is not there",
        Status.ESTIMATED: "within the bound, by a formula and not by a measurement",
        Status.NOT_APPLICABLE: "the question has no meaning for this subject",
    }
    recorder.counted("verdict", verdict(checks).value, "", "the worst status of all checks")
    recorder.counted("checks.total", len(checks), "checks", "bounds, and probes that raised")
    for status, meaning in meanings.items():
        recorder.counted(counted(status), sum(check.status is status for check in checks), "", meaning)


def counted(status: Status) -> str:
    """The figure that counts the checks of a status: `checks.not_run`."""
    return f"checks.{status.name.lower()}"


def _check(evidence: Evidence, name: str, row: Wanted, where: str) -> Check:
    names = [name, *row.bound.needs()]
    if error := next((failed for n in names if (failed := evidence.failure(n, where))), None):
        return Check(name, Status.FAIL, f"the probe raised an exception: {error}", row.bound, None, {}, {}, row.advice)
    found = {n: evidence.figure(n, where) for n in names}
    figures = {n: figure for n, figure in found.items() if figure is not None}
    status, reason = _status(name, row.bound, found, figures)
    beside = evidence.beside(name, where)
    _refuse_unattainable(row.bound, figures, beside, where)
    limits = {n: f for n, f in figures.items() if n != name}
    return Check(name, status, reason, row.bound, found[name], limits, beside, row.advice)


def _refuse_unattainable(bound: Bound, figures: Mapping[str, Figure], beside: Mapping[str, Figure], where: str) -> None:
    """UserError if the bound asks for more than the figure's ceiling: a check that nothing can pass judges the bound alone."""
    known = {n: number for n, figure in figures.items() if (number := _number(figure)) is not None}
    ceiling = next((_number(figure) for n, figure in beside.items() if n.endswith(".ceiling")), None)
    if ceiling is not None and known.keys() >= set(bound.needs()) and not bound.attainable(ceiling, known):
        raise UserError(
            f"{where}: {bound.text!r} asks for more than can be reached, which is {ceiling}; the ceiling itself would be right"
        )


def _status(name: str, bound: Bound, found: Mapping[str, Figure | None], figures: Mapping[str, Figure]) -> tuple[Status, str]:
    if absent := [n for n in found if n not in figures]:
        return Status.NOT_RUN, f"no audit holds {absent[0]}"
    if any(figure.value == INAPPLICABLE for figure in figures.values()):
        return Status.NOT_APPLICABLE, next(figure.meaning for figure in figures.values() if figure.value == INAPPLICABLE)
    numbers = {n: number for n, figure in figures.items() if (number := _number(figure)) is not None}
    if words := [n for n in figures if n not in numbers]:
        return Status.FAIL, f"{words[0]} is not a number"
    if not bound.admits(numbers[name], numbers):
        return Status.FAIL, "outside the bound"
    if estimates := [n for n, figure in figures.items() if figure.kind == "estimated"]:
        return Status.ESTIMATED, f"{estimates[0]} is an estimate"
    return Status.PASS, ""


def _number(figure: Figure) -> Number | None:
    value = figure.value
    return value if not isinstance(value, str) and math.isfinite(value) else None
