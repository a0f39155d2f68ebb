"""A series of an audit in, a drawing of it out. The same series gives the same bytes."""

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from provenlm.core.audit import Series
from provenlm.core.errors import UserError
from provenlm.reporting import heatmaps
from provenlm.reporting.markdown import visible

STYLE = Path(__file__).with_suffix(".mplstyle")
MARKED = 40  # up to so many points are marked: a curve through few points would hide where they are
FACTOR = 1000  # from this ratio of the largest to the smallest value on, a linear axis hides the small ones
MIDDLE = (5, 95)  # … and not only for a few points at the ends, such as a warm-up's first
THOUSANDS = 10_000  # from here on, ticks read 10k and not 10000
WIDE = 4  # more lines than this have their legend at the side

Floats = NDArray[np.float64]


def draw(series: Series, ending: str = "svg") -> bytes:
    """`series` as a picture in the format `ending`. UserError if a line is not as long as its x."""
    series = _readable(series)
    with matplotlib.rc_context(fname=str(STYLE)):
        figure = Figure()
        if series.shape == "maps":
            heatmaps.draw(figure, series)
        else:
            _points(figure, series)
        file = io.BytesIO()
        figure.savefig(file, format=ending, metadata={"Date": None, "Creator": None} if ending == "svg" else None)
    return file.getvalue()


def _readable(series: Series) -> Series:
    """The series with words that a drawing can hold: a control sign of a scraped name would make a file that nobody opens."""
    lines = {visible(name): values for name, values in series.lines.items()}
    return replace(series, lines=lines, x_label=visible(series.x_label), y_label=visible(series.y_label))


def _points(figure: Figure, series: Series) -> None:
    axes = figure.add_subplot()
    x, lines = _floats(series.x), {name: _floats(y) for name, y in series.lines.items()}
    _check(series, x, lines)
    draw_lines = _bars if series.shape == "bars" else _curves
    draw_lines(axes, x, lines)
    _scale(axes, series, x, lines)
    axes.set_xlabel(series.x_label)
    axes.set_title(series.y_label)
    _legend(axes, lines)


def _floats(values: Sequence[float]) -> Floats:
    """An audit keeps a value that is not finite as a word; here it is a gap."""
    numbers = np.array([float(value) for value in values], dtype=np.float64)
    numbers[~np.isfinite(numbers)] = math.nan
    return numbers


def _check(series: Series, x: Floats, lines: dict[str, Floats]) -> None:
    allowed = (len(x), len(x) - 1) if series.shape == "bars" else (len(x),)
    for name, y in lines.items():
        if len(y) not in allowed:
            raise UserError(f"series {series.name!r}: line {name!r} has {len(y)} points for {len(x)} of x")


def _curves(axes: Axes, x: Floats, lines: dict[str, Floats]) -> None:
    for name, y in lines.items():
        line = axes.plot(x, y, label=name, marker="o" if len(x) <= MARKED else "")[0]
        if len(y) > 1 and (y == y[0]).all():  # a baseline: there to be compared with
            line.set(dashes=(4, 2), linewidth=1.2, marker="")


def _bars(axes: Axes, x: Floats, lines: dict[str, Floats]) -> None:
    for name, counts in lines.items():
        edges = x if len(x) > len(counts) else np.append(x, x[-1] + (x[-1] - x[-2] if len(x) > 1 else 1))
        colour = axes.plot([], [], label=name)[0].get_color()
        axes.stairs(counts, edges, fill=True, color=colour, linewidth=0, alpha=0.3 if len(lines) > 1 else 0.75)
        axes.stairs(counts, edges, color=colour, linewidth=1.2)
    axes.set_ylim(bottom=0)


def _scale(axes: Axes, series: Series, x: Floats, lines: dict[str, Floats]) -> None:
    """Log axes where values are spaced by factors; ticks a reader can say aloud."""
    values = np.concatenate([*lines.values(), np.empty(0)])
    if _geometric(x):
        axes.set_xscale("log")
    elif len(x) and x[0] == 0 and _geometric(x[1:]):
        axes.set_xscale("symlog", linthresh=x[1], linscale=0.5)  # bins that begin at zero and then grow by factors
    middle = np.nanpercentile(values, MIDDLE) if np.isfinite(values).any() else values
    if series.shape == "lines" and _spread(values) >= FACTOR <= _spread(middle):
        axes.set_yscale("log")
    _ticks(axes.xaxis, x)
    _ticks(axes.yaxis, values)
    axes.margins(x=0.02)
    if series.shape == "bars" and axes.get_xscale() != "linear":
        _trim(axes, x, lines)


def _trim(axes: Axes, x: Floats, lines: dict[str, Floats]) -> None:
    """Leave out the empty bins at both ends: bins that grow by factors are often more than the values need."""
    filled = np.flatnonzero(np.any([*lines.values()], axis=0)) if lines else np.empty(0, dtype=np.intp)
    if len(filled):
        axes.set_xlim(x[filled[0]], x[min(filled[-1] + 1, len(x) - 1)])


def _spread(values: Floats) -> float:
    """The ratio of the largest to the smallest value if all are positive, else one."""
    known = values[np.isfinite(values)]
    return float(known.max() / known.min()) if len(known) and known.min() > 0 else 1.0


def _geometric(x: Floats) -> bool:
    """Whether x grows by factors rather than by steps."""
    if len(x) < 3 or _spread(x) < 10 or (np.diff(x) <= 0).any():
        return False
    steps, factors = np.diff(x), np.diff(np.log(x))
    return bool(np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps))


def _ticks(axis: Axis, values: Floats) -> None:
    known = np.abs(values[np.isfinite(values)])
    large = len(known) > 0 and known.max() >= THOUSANDS
    axis.set_major_formatter(EngFormatter(sep="") if large else ScalarFormatter(useOffset=False))
    if axis.get_scale() == "log":
        if not large:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        decades = math.log10(_spread(values))
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
        axis.set_minor_locator(NullLocator())


def _legend(axes: Axes, lines: dict[str, Floats]) -> None:
    if len(lines) > WIDE:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif len(lines) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(lines), borderaxespad=0.2, columnspacing=1.4)
