"""Draw a series of square heatmaps in a figure, with a row of panels per layer."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from provenlm.core.audit import PlotSeries
from provenlm.core.errors import DataError

MAX_COLUMNS = 8  # panels per row if the names of the maps form no groups
INCHES_PER_MAP = 1.05


def draw_heatmaps(fig: Figure, series: PlotSeries) -> None:
    """Draw each map of `series`, stored row by row with side len(x_values).

    Raise DataError if one is not square.
    """
    size = len(series.x_values)
    for name, values in series.y_values.items():
        if len(values) != size * size:
            raise DataError(f"series {series.name!r}: map {name!r} must have {size} times {size} values, got {len(values)}")
    rows = _rows(list(series.y_values))
    columns = max(map(len, rows), default=1)
    fig.set_size_inches(max(3.0, INCHES_PER_MAP * columns), max(1.5, (INCHES_PER_MAP + 0.15) * len(rows) + 0.5))
    axes = fig.subplots(max(1, len(rows)), columns, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for row, names in zip(axes, rows, strict=False):
        for panel_axes, name in zip(row, names, strict=False):
            _draw_map(panel_axes, name, np.array(series.y_values[name], dtype=np.float64).reshape(size, size))
    fig.supxlabel(series.x_label, fontsize="small")
    fig.supylabel(series.y_label, fontsize="small")


def _rows(names: list[str]) -> list[list[str]]:
    """Group names by the text before their first comma, else by MAX_COLUMNS."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(",")[0], []).append(name)
    if len(groups) < len(names):
        return list(groups.values())
    return [names[start : start + MAX_COLUMNS] for start in range(0, len(names), MAX_COLUMNS)]


def _draw_map(axes: Axes, name: str, values: NDArray[np.float64]) -> None:
    """Draw one map; in every map white is zero and dark is one."""
    axes.imshow(values, vmin=0.0, vmax=1.0, cmap="Blues", interpolation="nearest")
    axes.set_title(name, fontsize="x-small", pad=2)
    axes.grid(False)
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
