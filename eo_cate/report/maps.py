"""The heterogeneity map as a picture: one colour scale centred on the ATE, a scale bar, and the test's verdict."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pyproj import CRS, Geod

from eo_cate.report.format import fmt_p
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.rows import Row, estimator_name, map_guards, map_warning
from eo_cate.report.style import DIVERGING, GREY, INK, WIDTH_IN, new_figure
from eo_cate.types import BoolArray

_MISSING = "#BDBDBD"


def draw_map(inputs: ReportInputs) -> Figure:
    """tau_hat, in simulations beside the true effect on the same scale. NaN cells are grey; no site is drawn."""
    if inputs.map is None:
        raise ValueError("draw_map needs a map")
    guards = map_guards(inputs)
    grid = inputs.map.transpose("y", "x", ...).sortby("y", ascending=False).sortby("x")
    layers = ["tau_hat"] + (["true_effect"] if "true_effect" in grid else [])
    extent = cell_extent(grid)
    norm = centred_norm([np.asarray(grid[name]) for name in layers], inputs.ate[0])
    shape = abs((extent[3] - extent[2]) / (extent[1] - extent[0]))
    width = (WIDTH_IN - 0.6) / len(layers)
    figure = new_figure(1.6 + min(9.0, width * shape))
    panels = figure.subplots(1, len(layers), squeeze=False).ravel()
    titles = {"tau_hat": "Estimated effect (tau_hat)", "true_effect": "True effect (simulation)"}
    for axes, name in zip(panels, layers, strict=True):
        picture = _draw_layer(axes, grid[name], extent, norm)
        axes.set_title(titles[name])
    bar = figure.colorbar(
        picture, ax=list(panels), orientation="horizontal", shrink=0.6, aspect=40, extend="both", pad=0.03
    )
    bar.set_label(f"effect on the outcome; white = ATE ({inputs.ate[0]:.3g}); grey = no estimate")
    if map_warning(inputs):
        write_across(
            panels[0],
            map_warning(inputs),
            np.isfinite(np.asarray(grid["tau_hat"], dtype=float)),
            (width, min(9.0, width * shape)),
        )
    draw_scale_bar(panels[0], metres_per_unit(grid), extent)
    # the last line break keeps the panels' titles clear of this one
    figure.suptitle(f"Tests of the ranking (one-sided)\n{guard_lines(guards)}\n", x=0.01, ha="left", fontsize=10)
    if credit := imagery_credit(inputs):
        figure.supxlabel(credit, x=0.01, ha="left", fontsize=8, color=GREY, wrap=True)
    return figure


def imagery_credit(inputs: ReportInputs) -> str:
    """Dates and credit of the imagery, for the foot of a map; empty when neither is known."""
    imagery = inputs.config.imagery
    credit = imagery.source_note or "; ".join(dict.fromkeys(s["credit"] for s in inputs.sources if s["credit"]))
    dates = ", ".join(f"{p.start} to {p.end}" for p in imagery.periods)
    dates = dates or (f"until {imagery.acquired}" if imagery.acquired else "")
    parts = [part for part in (dates, credit) if part]
    return f"Imagery: {'; '.join(parts)}" if parts else ""


def guard_lines(guards: list[Row]) -> str:
    """The tests that the map rests on, one line per configuration."""
    lines: dict[str, list[str]] = {}
    for row in guards:
        text = f"{estimator_name(row['estimator'])} p {fmt_p(row['p'])}"
        lines.setdefault(row["configuration"], []).append(text)
    return "\n".join(f"{name}: {', '.join(parts)}" for name, parts in lines.items())


def cell_extent(grid: xr.Dataset) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of the cells' outer edges from their centres, for rows in either order."""
    x, y = np.asarray(grid["x"], dtype=float), np.asarray(grid["y"], dtype=float)
    steps = [abs(float(np.diff(a).mean())) for a in (x, y) if len(a) > 1] or [1.0]
    dx, dy = (steps[0] if len(x) > 1 else steps[-1]), steps[-1]
    return x.min() - dx / 2, x.max() + dx / 2, y.min() - dy / 2, y.max() + dy / 2


def centred_norm(layers: list[Any], centre: float) -> Normalize:
    """A scale symmetric around ``centre`` that reaches the 98th percentile of the absolute deviations."""
    values = np.concatenate([np.ravel(layer) for layer in layers]).astype(float)
    values = values[np.isfinite(values)]
    reach = float(np.quantile(np.abs(values - centre), 0.98)) if len(values) else 0.0
    reach = reach or abs(centre) or 1.0
    return Normalize(centre - reach, centre + reach)


def metres_per_unit(grid: xr.Dataset) -> float:
    """Ground metres of one unit of x at the middle of the grid."""
    crs = CRS.from_user_input(grid.attrs["crs"])
    if crs.is_projected:
        return float(crs.axis_info[0].unit_conversion_factor)
    x, y = float(np.mean(grid["x"])), float(np.mean(grid["y"]))
    return float(Geod(ellps="WGS84").inv(x, y, x + 0.01, y)[2]) / 0.01


def _draw_layer(axes: Axes, layer: xr.DataArray, extent: tuple[float, float, float, float], norm: Normalize) -> Any:
    values = np.ma.masked_invalid(np.asarray(layer, dtype=float))
    colours = mpl.colormaps[DIVERGING].with_extremes(bad=_MISSING)
    picture = axes.imshow(values, cmap=colours, norm=norm, extent=extent, origin="upper", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    return picture


def halo() -> list[patheffects.AbstractPathEffect]:
    """A white rim, so that text is legible on any cell."""
    return [patheffects.withStroke(linewidth=3, foreground="white")]


def write_across(axes: Axes, warning: str, known: BoolArray, size_in: tuple[float, float]) -> None:
    """Write the verdict across the cells that have an estimate, as large as the panel (width, height) allows."""
    rows, columns = np.nonzero(known)
    x, y = ((columns.mean() + 0.5) / known.shape[1], (rows.mean() + 0.5) / known.shape[0]) if len(rows) else (0.5, 0.5)
    axes.text(
        float(np.clip(x, 0.36, 0.64)), 1 - float(np.clip(y, 0.36, 0.64)), warning.replace(" of ", "\nof "),
        transform=axes.transAxes, ha="center", va="center", rotation=20, fontsize=min(4.6 * size_in[0], 8 * size_in[1]),
        fontweight="bold", color=INK, alpha=0.9, path_effects=halo(),
    )  # fmt: skip


def draw_scale_bar(axes: Axes, metres: float, extent: tuple[float, float, float, float]) -> None:
    """A bar of a round length near a quarter of the width, and an arrow to grid north."""
    width_m = (extent[1] - extent[0]) * metres
    power = 10.0 ** math.floor(math.log10(width_m / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= width_m / 4)
    x0, share = 0.04, length / width_m
    label = f"{length / 1000:g} km"
    axes.plot([x0, x0 + share], [0.045, 0.045], color=INK, lw=4, solid_capstyle="butt", transform=axes.transAxes,
              path_effects=[patheffects.withStroke(linewidth=7, foreground="white")])  # fmt: skip
    axes.text(x0, 0.065, label, transform=axes.transAxes, fontsize=10, va="bottom", path_effects=halo())
    axes.annotate(
        "N", xy=(0.95, 0.97), xytext=(0.95, 0.86), xycoords="axes fraction", textcoords="axes fraction", ha="center",
        va="center", fontsize=11, fontweight="bold", path_effects=halo(),
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.8},
    )  # fmt: skip
