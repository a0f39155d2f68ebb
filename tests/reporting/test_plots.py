"""Plots: the same bytes for the same series, axes that fit the values, gaps for what is not finite."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
from matplotlib.figure import Figure

from provenlm.core.audit import PlotSeries
from provenlm.core.errors import ProvenlmError
from provenlm.reporting import heatmaps, plots


def series(x: Sequence[float], lines: Mapping[str, Sequence[float]], shape: Literal["line", "hist"] = "line") -> PlotSeries:
    return PlotSeries("s", shape, "meaning", "step", "loss (nats/token)", x, lines)


LOSS = series([float(i) for i in range(100)], {"training": [5 / (i + 1) + 2 for i in range(100)], "bigram": [4.2] * 100})


def test_the_same_series_gives_the_same_bytes():
    assert plots.plot_series(LOSS) == plots.plot_series(LOSS)


def test_a_plot_is_well_formed_and_says_no_date():
    data = plots.plot_series(LOSS)
    assert ET.fromstring(data).tag.endswith("svg")
    assert b"<dc:date>" not in data and b"<script" not in data


def test_another_value_gives_another_plot():
    other = series(LOSS.x_values, {**LOSS.y_values, "bigram": [4.3] * 100})
    assert plots.plot_series(LOSS) != plots.plot_series(other)


def test_drawing_leaves_the_settings_of_the_process_alone():
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
        ([0, 0.5, 1], {"kept": [3, 4], "dropped": [1, 0]}, "hist"),
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
def test_odd_series_are_drawn_without_complaint(x, lines, shape):
    ET.fromstring(plots.plot_series(series(x, lines, shape)))


def test_a_line_of_another_length_than_x_is_refused_by_name():
    with pytest.raises(ProvenlmError, match=r"^series 's': line 'a' has 1 points for 2 of x$"):
        plots.plot_series(series([1, 2], {"a": [1]}))


def test_bins_that_begin_at_zero_and_grow_by_factors_are_drawn_as_wide_as_each_other():
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


def test_maps_are_drawn_a_row_of_heads_for_each_layer():
    heads = {f"layer {layer}, head {head}": [1, 0, 0.5, 0.5] for layer in range(3) for head in range(2)}
    picture = PlotSeries("s", "heatmap", "meaning", "token looked at", "token", [0, 1], heads)
    assert plots.plot_series(picture) == plots.plot_series(picture)
    figure = Figure()
    heatmaps.draw_heatmaps(figure, picture)
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == list(heads)
    assert len({round(axes.get_position().y0, 3) for axes in figure.axes}) == 3
    assert shown[0].images[0].get_array().tolist() == [[1, 0], [0.5, 0.5]]


def test_a_map_that_is_no_square_is_refused_by_name():
    with pytest.raises(ProvenlmError, match=r"^series 's': map 'a' has 3 values, not 2 times 2$"):
        plots.plot_series(PlotSeries("s", "heatmap", "meaning", "x", "y", [0, 1], {"a": [1, 0, 0]}))


@pytest.mark.parametrize(
    "name", ["a\x00b", "\ud800x", "--><script>alert()</script>", "]]>&<b>", "two\nlines", "\u202eback", "$x^2$"]
)
def test_a_hostile_name_makes_a_sound_file_without_markup(name):
    hostile = PlotSeries(name, "line", name, name, name, [1, 2], {name: [1.0, 2.0], "b": [2.0, 3.0]})
    drawn = plots.plot_series(hostile)
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(drawn).iter()}
    assert "script" not in tags and b"<script" not in drawn and "path" in tags
