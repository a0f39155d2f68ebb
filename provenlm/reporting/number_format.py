"""Format a value with its unit for a reader, or exactly so that it can be parsed."""

import json
import math

from provenlm.core.audit import MetricValue

SIGNIFICANT_DIGITS = 4  # of a float; the exact value is in the title of the link
MAX_PLAIN = 1e15
MIN_PLAIN = 1e-4
BYTE_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
TIME_SCALES = ((86400, "days"), (3600, "h"), (60, "min"))
PERCENT_DECIMALS = 1  # decimals of a relative change
MINUS = "\N{MINUS SIGN}"
MIN_UNITS = 2  # switch to a larger time unit from this many of it on


def format_value(value: MetricValue, unit: str) -> str:
    """Format a value with its unit for a reader.

    Bytes become kB or MB, long times minutes or hours, and fractions percent; digits are grouped by thousands.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "bytes":
        return _format_bytes(value)
    if unit == "s":
        return _format_seconds(value)
    if unit == "fraction":
        return f"{format_number(value * 100)} %"
    return f"{format_number(value)} {unit}".rstrip()


def format_change(before: MetricValue, after: MetricValue, unit: str) -> str:
    """Format the signed change of a number, absolute and in percent.

    Fractions change by points, text gives an empty string.
    """
    if isinstance(before, str) or isinstance(after, str):
        return ""
    change = float(f"{after - before:.{SIGNIFICANT_DIGITS}g}") if isinstance(after - before, float) else after - before
    size = f"{format_number(abs(change) * 100)} points" if unit == "fraction" else format_value(abs(change), unit)
    percent = f" ({change / abs(before):+.{PERCENT_DECIMALS}%})" if before and unit != "fraction" else ""
    return f"{'+' if change > 0 else MINUS if change < 0 else ''}{size}{percent}".replace("-", MINUS)


def exact_repr(value: MetricValue) -> str:
    """Format `value` as in its audit, so that it can be read back without loss."""
    return value if isinstance(value, str) else json.dumps(value)


def format_number(value: int | float) -> str:
    """Format an int in full and a float with at most four significant digits.

    Digits are grouped by thousands.
    """
    if isinstance(value, int):
        return f"{value:,}"
    if float(f"{value:.{SIGNIFICANT_DIGITS}g}") == value and MIN_PLAIN <= abs(value) < MAX_PLAIN:
        return f"{int(value):,}" if value.is_integer() else f"{value:,}"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if not MIN_PLAIN <= abs(value) < MAX_PLAIN:
        return f"{value:.{SIGNIFICANT_DIGITS - 1}e}"
    decimals = max(0, SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _format_bytes(value: int | float) -> str:
    for scale, prefix in BYTE_SCALES:
        if abs(value) >= scale:
            return f"{format_number(value / scale)} {prefix}B"
    return f"{format_number(value)} bytes"


def _format_seconds(value: int | float) -> str:
    for scale, name in TIME_SCALES:
        if abs(value) >= MIN_UNITS * scale:
            return f"{format_number(value / scale)} {name}"
    return f"{format_number(value)} s"
