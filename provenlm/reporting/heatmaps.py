"""A series of square maps in, all of them in one drawing, a row of maps for each layer where their names say so, out."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from provenlm.core.audit import Series
from provenlm.core.errors import UserError

COLUMNS = 8  # maps side by side where their names group nothing
INCHES = 1.05


def draw(figure: Figure, series: Series) -> None:
    """Draw each of `lines`: a square of len(x) rows, one after the other. UserError if one is not."""
    size = len(series.x)
    for name, values in series.lines.items():
        if len(values) != size * size:
            raise UserError(f"series {series.name!r}: map {name!r} has {len(values)} values, not {size} times {size}")
    rows = _rows(list(series.lines))
    columns = max(map(len, rows), default=1)
    figure.set_size_inches(max(3.0, INCHES * columns), max(1.5, (INCHES + 0.15) * len(rows) + 0.5))
    axes = figure.subplots(max(1, len(rows)), columns, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    for row, names in zip(axes, rows, strict=False):
        for place, name in zip(row, names, strict=False):
            _map(place, name, np.array(series.lines[name], dtype=np.float64).reshape(size, size))
    figure.supxlabel(series.x_label, fontsize="small")
    figure.supylabel(series.y_label, fontsize="small")


def _rows(names: list[str]) -> list[list[str]]:
    """Names in rows: those with the same words before their first comma together, else COLUMNS in each."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(",")[0], []).append(name)
    if len(groups) < len(names):
        return list(groups.values())
    return [names[first : first + COLUMNS] for first in range(0, len(names), COLUMNS)]


def _map(place: Axes, name: str, values: NDArray[np.float64]) -> None:
    """White is nought and dark one, the same in every map."""
    place.imshow(values, vmin=0.0, vmax=1.0, cmap="Blues", interpolation="nearest")
    place.set_title(name, fontsize="x-small", pad=2)
    place.grid(False)
    place.set_axis_on()
    place.set_xticks([])
    place.set_yticks([])
