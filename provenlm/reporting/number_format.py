"""A value and its unit in, the words to show out; and the exact value, so that what is shown can be read back."""

import json
import math

from provenlm.core.audit import Value

DIGITS = 4  # significant ones of a float; the exact value stands behind it
LARGEST = 1e15
SMALLEST = 1e-4
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SECONDS = ((86400, "days"), (3600, "h"), (60, "min"))
FEWER = 1  # decimals of a percentage that only says how large a change is
MINUS = "\N{MINUS SIGN}"
LONG = 2  # how many minutes are minutes, hours hours: below that, the smaller unit says more


def shown(value: Value, unit: str) -> str:
    """`value` for a reader: bytes as kB or MB, seconds as minutes when long, shares in percent, thousands apart."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "bytes":
        return _bytes(value)
    if unit == "s":
        return _seconds(value)
    if unit == "share":
        return f"{plain(value * 100)} %"
    return f"{plain(value)} {unit}".rstrip()


def moved(before: Value, now: Value, unit: str) -> str:
    """By how much a number moved, with its sign, and in percent of what it was; nothing for words. Shares move by points."""
    if isinstance(before, str) or isinstance(now, str):
        return ""
    step = float(f"{now - before:.{DIGITS}g}") if isinstance(now - before, float) else now - before
    size = f"{plain(abs(step) * 100)} points" if unit == "share" else shown(abs(step), unit)
    part = f" ({step / abs(before):+.{FEWER}%})" if before and unit != "share" else ""
    return f"{'+' if step > 0 else MINUS if step < 0 else ''}{size}{part}".replace("-", MINUS)


def exact(value: Value) -> str:
    """`value` as its audit says it, to be read back without loss."""
    return value if isinstance(value, str) else json.dumps(value)


def plain(value: int | float) -> str:
    """Whole numbers in full, others to four significant digits or fewer if that is all there are; thousands apart."""
    if isinstance(value, int):
        return f"{value:,}"
    if float(f"{value:.{DIGITS}g}") == value and SMALLEST <= abs(value) < LARGEST:
        return f"{int(value):,}" if value.is_integer() else f"{value:,}"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if not SMALLEST <= abs(value) < LARGEST:
        return f"{value:.{DIGITS - 1}e}"
    decimals = max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _bytes(value: int | float) -> str:
    for scale, prefix in SCALES:
        if abs(value) >= scale:
            return f"{plain(value / scale)} {prefix}B"
    return f"{plain(value)} bytes"


def _seconds(value: int | float) -> str:
    for scale, name in SECONDS:
        if abs(value) >= LONG * scale:
            return f"{plain(value / scale)} {name}"
    return f"{plain(value)} s"
