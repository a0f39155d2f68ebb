"""Test the configuration of a report: defaults, and schedules that are refused."""

import pytest

from provenlm.core.config import parse_config
from provenlm.core.errors import ConfigError
from provenlm.core.report_config import ReportConfig, ScheduleConfig

REPORT = {"title": "A report", "recipes": ["toy"], "corpora": ["words"]}


def test_checks_are_standard_and_there_is_no_schedule_by_default():
    config = parse_config(ReportConfig, REPORT, "w")
    assert (config.checks, config.schedule) == ("standard", None)


@pytest.mark.parametrize("cron", [None, "0 3 * * *", "*/2 * * * *", "0 0 1,15 * mon-fri", "0 3 * jan-Mar 7"])
def test_a_cron_expression_of_five_fields_is_accepted(cron):
    config = parse_config(ReportConfig, {**REPORT, "schedule": {"cron": cron}}, "w")
    assert config.schedule == ScheduleConfig(cron, 0.02)


@pytest.mark.parametrize(
    ("cron", "fault"),
    [
        ("whenever", "it has 1 field(s)"),
        ("every day at five o'clock", "the field minute must be in 0..59, got 'every'"),
        ("60 3 * * *", "the field minute must be in 0..59, got '60'"),
        ("0 17-9 * * *", "the field hour must be in 0..23, got '17-9'"),
        ("0 3 0 * *", "the field day of month must be in 1..31, got '0'"),
        ("0 3 * * *  *", "it has 6 field(s)"),
        ("*/0 * * * *", "the field minute must be in 0..59, got '*/0'"),
    ],
)
def test_any_other_cron_expression_is_refused(cron, fault):
    with pytest.raises(ConfigError) as error:
        parse_config(ScheduleConfig, {"cron": cron}, "params.yaml: reports.r.schedule")
    assert str(error.value) == (
        f'params.yaml: reports.r.schedule: cron: must be null or five fields such as "0 3 * * *", got {cron!r}: {fault}'
    )


def test_a_negative_regression_is_refused():
    with pytest.raises(ConfigError, match="w: max_regression_bits_per_byte: must be >= 0, got -1.0"):
        parse_config(ScheduleConfig, {"cron": None, "max_regression_bits_per_byte": -1}, "w")
