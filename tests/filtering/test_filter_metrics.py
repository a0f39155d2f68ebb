import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.interfaces import CountLabel
from provenlm.core.records import Record
from provenlm.filtering.metrics import FilterTally, language_table, language_warnings, outcome_summary, record_filter_metrics
from provenlm.filtering.scoring import FilterDecision


def decision(text: str, drop_reason: str | None, score: float, **counts: int) -> FilterDecision:
    record = Record.from_content(text.encode(), "text/plain", text)
    return FilterDecision(record, drop_reason, score, {"length": score}, counts, len(record.content))


def describe_count(name: str) -> CountLabel:
    return CountLabel("hits", f"Hits of {name}", by_record=True)


def metrics_of(tally: FilterTally) -> MetricRecorder:
    recorder = MetricRecorder()
    record_filter_metrics(recorder, tally, describe_count)
    return recorder


@pytest.fixture
def tally() -> FilterTally:
    result = FilterTally()
    for item in (
        decision("kept", None, 0.9, digits=2),
        decision("short", "too_short", 0.1),
        decision("also kept", None, 0.6, digits=1),
    ):
        result.add(item)
    return result


def test_records_are_counted_by_outcome_and_reason(tally):
    values = {name: metric.value for name, metric in metrics_of(tally).metrics.items()}
    assert (values["records.in"], values["records.kept"], values["dropped.too_short"], values["unaccounted"]) == (3, 2, 1, 0)
    assert (values["bytes.in"], values["bytes.kept"], values["bytes.dropped"]) == (18, 13, 5)
    assert (values["score.before.frac_ge_0_6"], values["score.after.frac_ge_0_6"]) == (pytest.approx(2 / 3), 1.0)


def test_counts_of_the_domain_are_labelled_by_the_domain(tally):
    metrics = metrics_of(tally).metrics
    assert (metrics["digits"].value, metrics["digits"].unit, metrics["digits"].description) == (3, "hits", "Hits of digits")
    assert metrics["digits.records"].value == 2


def test_a_lost_record_fails_the_standard_check(tally):
    tally.kept_flags[0] = 0  # neither kept nor dropped for a reason
    recorder = metrics_of(tally)
    assert recorder.metrics["unaccounted"].value == 1
    assert recorder.checks["unaccounted"].expect == "== 0"


def test_records_without_a_profile_have_no_profile_metrics(tally):
    assert not [name for name in metrics_of(tally).metrics if name.startswith("profile.")]


def in_language(language: str, outcomes: list[str | None]) -> FilterTally:
    result = FilterTally()
    for index, reason in enumerate(outcomes):
        record = Record.from_content(f"{language} {index}".encode(), "text/plain", "s").with_metadata(language=language)
        result.add(FilterDecision(record, reason, 1.0, {}, {}, 4))
    return result


def test_the_language_table_counts_before_and_after_each_reason():
    assert language_table(in_language("fr", ["short", None, "long", "short"])).rows == [
        ("fr", "short", 4, 2, 2),
        ("fr", "long", 2, 1, 1),
        ("fr", "all rules", 4, 3, 1),
    ]


@pytest.mark.parametrize(
    ("language", "outcomes", "num_warnings"),
    [
        ("fr", ["short"] * 9 + [None], 1),
        ("fr", ["short"] * 8 + [None] * 2, 0),
        ("fr", ["short"] * 2, 0),
        ("fr", ["other_language"] * 9, 0),
        ("unknown", ["short"] * 9, 0),
    ],
)
def test_a_rule_that_takes_nearly_all_of_a_language_is_named(language, outcomes, num_warnings):
    warnings = language_warnings(in_language(language, outcomes))
    assert len(warnings) == num_warnings
    assert all("short dropped 9 of 10 records in language fr" in warning for warning in warnings)


def test_one_line_says_what_became_of_all_records(tally):
    assert outcome_summary(tally) == "kept 2 of 3 records; dropped 1 too_short"
