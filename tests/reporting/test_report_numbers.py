"""Test how numbers are formatted: short for a reader, exact for a program."""

import pytest

from provenlm.reporting.number_format import exact_repr, format_change, format_value


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (222994944, "parameters", "222,994,944 parameters"),
        (0, "records", "0 records"),
        (-3, "", "-3"),
        (1.9123456, "bits/byte", "1.912 bits/byte"),
        (2.8, "bits/byte", "2.8 bits/byte"),
        (3.0, "nats", "3 nats"),
        (12345.678, "tokens/s", "12,346 tokens/s"),
        (1.23456e-9, "", "1.235e-09"),
        (0.00012345, "", "0.0001234"),
        (6.02214076e23, "", "6.022e+23"),
        (0.0, "s", "0 s"),
        (512, "bytes", "512 bytes"),
        (6345123, "bytes", "6.345 MB"),
        (1000, "bytes", "1 kB"),
        (141_000_000_000, "bytes", "141 GB"),
        (12.5, "s", "12.5 s"),
        (119.99, "s", "120.0 s"),
        (257.4, "s", "4.29 min"),
        (7300, "s", "2.028 h"),
        (0.9294871794871795, "fraction", "92.95 %"),
        ("RuntimeError: no", "", "RuntimeError: no"),
        ("nan", "nats", "nan"),
        (True, "", "yes"),
    ],
)
def test_a_value_is_formatted_for_a_reader(value, unit, words):
    assert format_value(value, unit) == words


@pytest.mark.parametrize("value", [0.1, 1e-300, 123456789.123456, 9760195584, -0.0])
def test_the_exact_value_reads_back_without_loss(value):
    assert float(exact_repr(value)) == value


@pytest.mark.parametrize(
    ("before", "now", "unit", "words"),
    [
        (2.0, 1.5, "nats", "\N{MINUS SIGN}0.5 nats (\N{MINUS SIGN}25.0%)"),
        (1000, 1500, "records", "+500 records (+50.0%)"),
        (0, 3, "records", "+3 records"),
        (0.137, 0.173, "s", "+0.036 s (+26.3%)"),
        (0.25, 0.75, "fraction", "+50 points"),
        (-2.0, -1.0, "nats", "+1 nats (+50.0%)"),
        (4, 4, "records", "0 records (+0.0%)"),
        ("nan", 4.0, "nats", ""),
        ("steps", "a signal", "", ""),
    ],
)
def test_a_change_has_sign_unit_and_percentage(before, now, unit, words):
    assert format_change(before, now, unit) == words
