"""Test plots: the same bytes for the same series, axes that fit the values, gaps for values that are not finite."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
from matplotlib.figure import Figure

from provenlm.core.audit import PlotSeries
from provenlm.core.errors import DataError
from provenlm.reporting import heatmaps, plots


def series(x: Sequence[float], lines: Mapping[str, Sequence[float]], shape: Literal["line", "hist"] = "line") -> PlotSeries:
    return PlotSeries("s", shape, "description", "step", "loss (nats/token)", x, lines)


LOSS = series([float(i) for i in range(100)], {"training": [5 / (i + 1) + 2 for i in range(100)], "bigram": [4.2] * 100})


def test_the_same_series_gives_the_same_bytes():
    assert plots.plot_series(LOSS) == plots.plot_series(LOSS)


def test_a_plot_is_well_formed_and_contains_no_date():
    data = plots.plot_series(LOSS)
    assert ET.fromstring(data).tag.endswith("svg")
    assert b"<dc:date>" not in data and b"<script" not in data


def test_a_different_value_gives_a_different_plot():
    other = series(LOSS.x_values, {**LOSS.y_values, "bigram": [4.3] * 100})
    assert plots.plot_series(LOSS) != plots.plot_series(other)


def test_plotting_does_not_change_the_global_rcparams():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.plot_series(LOSS)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("x", "lines", "shape"),
    [
        ([], {"a": []}, "line"),
        ([1], {"a": [2]}, "line"),
        ([1, 2], {"a": ["nan", "inf"]}, "line"),
        ([1, 2], {"a": ["nan", 3.0]}, "line"),
        ([0, 0.5, 1], {"retained": [3, 4], "dropped": [1, 0]}, "hist"),
        ([1, 2, 4], {"a": [3, 4, 5]}, "hist"),
        ([1], {"a": [3]}, "hist"),
        ([1, 2], {}, "line"),
        ([0, 64, 128, 256, 512, 1024], {"records": [0, 0, 3, 1, 0]}, "hist"),
        ([1, 2, 4, 8, 16, 32], {"before": [0, 0, 0, 0, 0], "after": [0, 0, 0, 0, 0]}, "hist"),
        ([1, 2, 4, 8, 16, 32], {}, "hist"),
        ([-1, 0, 1], {"a": [0, 0, 0]}, "line"),
        ([1, 2], {"$x_$ <b>": [1, 2], "Grüße": [2, 3]}, "line"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_unusual_series_are_plotted_without_warnings(x, lines, shape):
    ET.fromstring(plots.plot_series(series(x, lines, shape)))


def test_a_line_and_x_values_of_unequal_length_are_refused():
    with pytest.raises(DataError, match=r"^series 's': line 'a' must have 2 points like x, got 1$"):
        plots.plot_series(series([1, 2], {"a": [1]}))


def test_geometric_bins_that_start_at_zero_get_a_symlog_axis():
    edges = [0, 64, 128, 256, 512, 1024, 1 << 20]
    axes = Figure().add_subplot()
    bars = series(edges, {"records": [0, 2, 3, 1, 0, 0]}, "hist")
    lines = {"records": np.array(bars.y_values["records"], dtype=float)}
    plots._set_scales(axes, bars, np.array(edges, dtype=float), lines)
    assert axes.get_xscale() == "symlog" and axes.get_xlim() == (64, 512)  # the empty bins at both ends are left out


@pytest.mark.parametrize(
    ("x", "geometric"),
    [
        (np.arange(1, 100), False),
        (np.geomspace(10, 1e5, 20), True),
        ([64, 128, 256, 512, 1024], True),
        ([0, 10, 100], False),
        ([1, 2], False),
    ],
)
def test_x_is_on_a_log_axis_where_it_grows_by_factors(x, geometric):
    assert plots._is_geometric(np.asarray(x, dtype=float)) is geometric


def test_heatmaps_have_one_row_of_heads_for_each_layer():
    heads = {f"layer {layer}, head {head}": [1, 0, 0.5, 0.5] for layer in range(3) for head in range(2)}
    heatmap = PlotSeries("s", "heatmap", "description", "attended token", "token", [0, 1], heads)
    assert plots.plot_series(heatmap) == plots.plot_series(heatmap)
    fig = Figure()
    heatmaps.draw_heatmaps(fig, heatmap)
    titled_axes = [axes for axes in fig.axes if axes.get_title()]
    assert [axes.get_title() for axes in titled_axes] == list(heads)
    assert len({round(axes.get_position().y0, 3) for axes in fig.axes}) == 3
    assert titled_axes[0].images[0].get_array().tolist() == [[1, 0], [0.5, 0.5]]


def test_a_heatmap_that_is_not_square_is_refused():
    with pytest.raises(DataError, match=r"^series 's': map 'a' must have 2 times 2 values, got 3$"):
        plots.plot_series(PlotSeries("s", "heatmap", "description", "x", "y", [0, 1], {"a": [1, 0, 0]}))


@pytest.mark.parametrize(
    "name", ["a\x00b", "\ud800x", "--><script>alert()</script>", "]]>&<b>", "two\nlines", "\u202eback", "$x^2$"]
)
def test_a_hostile_name_gives_a_valid_file_without_markup(name):
    hostile = PlotSeries(name, "line", name, name, name, [1, 2], {name: [1.0, 2.0], "b": [2.0, 3.0]})
    svg = plots.plot_series(hostile)
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}
    assert "script" not in tags and b"<script" not in svg and "path" in tags
