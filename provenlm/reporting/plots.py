"""Plot a series of an audit; the same series gives the same bytes."""

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

from provenlm.core.audit import PlotSeries
from provenlm.core.errors import DataError
from provenlm.reporting import heatmaps
from provenlm.reporting.markdown import replace_control_chars

STYLE = Path(__file__).with_suffix(".mplstyle")
MAX_MARKED_POINTS = 40  # curves with at most this many points get markers, because a line alone would hide the points
LOG_SCALE_RATIO = 1000  # use a log axis from this ratio of largest to smallest value on
CENTRAL_PERCENTILES = (5, 95)  # the ratio must also hold without outliers, such as the first steps of a warm-up
MIN_ENGINEERING_VALUE = 10_000  # from this value on, tick labels read 10k instead of 10000
MAX_TOP_LEGEND_LINES = 4  # a legend with more lines is placed beside the axes

Floats = NDArray[np.float64]


def plot_series(series: PlotSeries, file_format: str = "svg") -> bytes:
    """Plot `series` as an image.

    Raise DataError if a line and its x values differ in length.
    """
    series = _sanitized(series)
    with matplotlib.rc_context(fname=str(STYLE)):
        fig = Figure()
        if series.kind == "heatmap":
            heatmaps.draw_heatmaps(fig, series)
        else:
            _plot_axes(fig, series)
        buffer = io.BytesIO()
        fig.savefig(buffer, format=file_format, metadata={"Date": None, "Creator": None} if file_format == "svg" else None)
    return buffer.getvalue()


def _sanitized(series: PlotSeries) -> PlotSeries:
    """Replace control characters in names and labels, because SVG forbids them."""
    lines = {replace_control_chars(name): values for name, values in series.y_values.items()}
    return replace(
        series, y_values=lines, x_label=replace_control_chars(series.x_label), y_label=replace_control_chars(series.y_label)
    )


def _plot_axes(fig: Figure, series: PlotSeries) -> None:
    axes = fig.add_subplot()
    x, lines = _floats(series.x_values), {name: _floats(y) for name, y in series.y_values.items()}
    _check_lengths(series, x, lines)
    draw_lines = _bars if series.kind == "hist" else _curves
    draw_lines(axes, x, lines)
    _set_scales(axes, series, x, lines)
    axes.set_xlabel(series.x_label)
    axes.set_title(series.y_label)
    _add_legend(axes, lines)


def _floats(values: Sequence[float]) -> Floats:
    """Convert to floats.

    A value that is not finite (text in an audit) becomes NaN, a gap in the plot.
    """
    numbers = np.array([float(value) for value in values], dtype=np.float64)
    numbers[~np.isfinite(numbers)] = math.nan
    return numbers


def _check_lengths(series: PlotSeries, x: Floats, lines: dict[str, Floats]) -> None:
    allowed = (len(x), len(x) - 1) if series.kind == "hist" else (len(x),)
    for name, y in lines.items():
        if len(y) not in allowed:
            raise DataError(f"series {series.name!r}: line {name!r} must have {len(x)} points like x, got {len(y)}")


def _curves(axes: Axes, x: Floats, lines: dict[str, Floats]) -> None:
    for name, y in lines.items():
        line = axes.plot(x, y, label=name, marker="o" if len(x) <= MAX_MARKED_POINTS else "")[0]
        if len(y) > 1 and (y == y[0]).all():  # a constant line is a baseline
            line.set(dashes=(4, 2), linewidth=1.2, marker="")


def _bars(axes: Axes, x: Floats, lines: dict[str, Floats]) -> None:
    for name, counts in lines.items():
        edges = x if len(x) > len(counts) else np.append(x, x[-1] + (x[-1] - x[-2] if len(x) > 1 else 1))
        color = axes.plot([], [], label=name)[0].get_color()
        axes.stairs(counts, edges, fill=True, color=color, linewidth=0, alpha=0.3 if len(lines) > 1 else 0.75)
        axes.stairs(counts, edges, color=color, linewidth=1.2)
    axes.set_ylim(bottom=0)


def _set_scales(axes: Axes, series: PlotSeries, x: Floats, lines: dict[str, Floats]) -> None:
    """Choose log or linear axes from the spacing of the values, and readable ticks."""
    values = np.concatenate([*lines.values(), np.empty(0)])
    if _is_geometric(x):
        axes.set_xscale("log")
    elif len(x) and x[0] == 0 and _is_geometric(x[1:]):
        axes.set_xscale("symlog", linthresh=x[1], linscale=0.5)  # bins that start at zero and then grow by factors
    central = np.nanpercentile(values, CENTRAL_PERCENTILES) if np.isfinite(values).any() else values
    if series.kind == "line" and _dynamic_range(values) >= LOG_SCALE_RATIO <= _dynamic_range(central):
        axes.set_yscale("log")
    _set_ticks(axes.xaxis, x)
    _set_ticks(axes.yaxis, values)
    axes.margins(x=0.02)
    if series.kind == "hist" and axes.get_xscale() != "linear":
        _trim_empty_bins(axes, x, lines)


def _trim_empty_bins(axes: Axes, x: Floats, lines: dict[str, Floats]) -> None:
    """Omit empty bins at both ends: geometric bins often extend beyond the values."""
    occupied = np.flatnonzero(np.any([*lines.values()], axis=0)) if lines else np.empty(0, dtype=np.intp)
    if len(occupied):
        axes.set_xlim(x[occupied[0]], x[min(occupied[-1] + 1, len(x) - 1)])


def _dynamic_range(values: Floats) -> float:
    """Return the ratio of largest to smallest value if all are positive, else one."""
    finite = values[np.isfinite(values)]
    return float(finite.max() / finite.min()) if len(finite) and finite.min() > 0 else 1.0


def _is_geometric(x: Floats) -> bool:
    """Return whether x grows by a roughly constant factor, not by a constant step."""
    if len(x) < 3 or _dynamic_range(x) < 10 or (np.diff(x) <= 0).any():
        return False
    steps, factors = np.diff(x), np.diff(np.log(x))
    return bool(np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps))


def _set_ticks(axis: Axis, values: Floats) -> None:
    finite = np.abs(values[np.isfinite(values)])
    large = len(finite) > 0 and finite.max() >= MIN_ENGINEERING_VALUE
    axis.set_major_formatter(EngFormatter(sep="") if large else ScalarFormatter(useOffset=False))
    if axis.get_scale() == "log":
        if not large:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        decades = math.log10(_dynamic_range(values))
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
        axis.set_minor_locator(NullLocator())


def _add_legend(axes: Axes, lines: dict[str, Floats]) -> None:
    if len(lines) > MAX_TOP_LEGEND_LINES:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif len(lines) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(lines), borderaxespad=0.2, columnspacing=1.4)
