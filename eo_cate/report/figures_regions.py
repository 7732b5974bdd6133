"""A region beyond the trial as pictures: its map with its uncertainty, the overlap with the trial, and abstention."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import shapely
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from eo_cate.extrapolation import Overlap, RiskCoverage
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.maps import (
    cell_extent,
    centred_norm,
    draw_scale_bar,
    guard_lines,
    halo,
    imagery_credit,
    write_across,
)
from eo_cate.report.region_inputs import RegionShown
from eo_cate.report.rows import map_guards, map_warning
from eo_cate.report.style import BLUE, DIVERGING, GREY, INK, PALE, VERMILLION, WIDTH_IN, new_figure
from eo_cate.types import BoolArray

OUTSIDE, NO_IMAGERY = 1, 2
_MOST_PIXELS = 2_000_000
"""Of the mask behind the stripes, which is drawn finer than the cells so that its edges are theirs."""
_MOST_LABELS = 25
_MISSING = "#BDBDBD"


def draw_region(inputs: ReportInputs) -> Figure:
    """tau_hat and its standard error; hatched where the map may not speak, grey without imagery."""
    shown = inputs.region
    if shown is None:
        raise ValueError("draw_region needs a region")
    grid = shown.layers
    extent = cell_extent(grid)
    shape = abs((extent[3] - extent[2]) / (extent[1] - extent[0]))
    width = (WIDTH_IN - 0.6) / 2
    height = min(9.0, width * shape)
    figure = new_figure(2.75 + height)
    places = figure.subplot_mosaic([["left", "right"], ["key", "key"]], height_ratios=[height + 0.9, 0.5])
    left, right = places["left"], places["right"]
    tau, errors = (np.asarray(grid[name], dtype=float) for name in ("tau_hat", "std_err"))
    norms = centred_norm([tau], inputs.ate[0]), _error_norm(errors)
    titles = "Estimated effect (tau_hat)", "Standard error of the estimate"
    labels = (
        f"effect on the outcome; white = ATE ({inputs.ate[0]:.3g})",
        "units of the outcome; too small for single cells",
    )
    for axes, values, norm, colours, title, label in zip(
        (left, right), (tau, errors), norms, (DIVERGING, "cividis"), titles, labels, strict=True
    ):
        picture = _draw_cells(axes, values, extent, norm, colours)
        _hatch(axes, grid, extent)
        _draw_outlines(axes, shown)
        axes.set_title(title)
        axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
        figure.colorbar(
            picture, ax=axes, orientation="horizontal", aspect=30, extend="both" if axes is left else "max", pad=0.02
        ).set_label(label, fontsize=9)
    if warning := map_warning(inputs):
        write_across(left, warning, np.isfinite(tau), (width, height))
    draw_scale_bar(left, 1.0, extent)
    figure.suptitle(
        f"Beyond the trial. Tests of the ranking (one-sided)\n{guard_lines(map_guards(inputs))}\n",
        x=0.01, ha="left", fontsize=10,
    )  # fmt: skip
    places["key"].set_axis_off()
    places["key"].legend(handles=_legend(shown), loc="center left", ncols=2, fontsize=9, borderaxespad=0)
    if credit := imagery_credit(inputs):
        figure.supxlabel(credit, x=0.01, ha="left", fontsize=8, color=GREY, wrap=True)
    return figure


def _error_norm(errors: Any) -> Normalize:
    known = errors[np.isfinite(errors)]
    return Normalize(0.0, float(np.quantile(known, 0.98)) if len(known) and known.max() > 0 else 1.0)


def _draw_cells(axes: Axes, values: Any, extent: tuple[float, ...], norm: Normalize, colours: str) -> Any:
    palette = mpl.colormaps[colours].with_extremes(bad=(1, 1, 1, 0))
    axes.spines[:].set_visible(True)
    box = (extent[0], extent[1], extent[2], extent[3])
    return axes.imshow(
        np.ma.masked_invalid(values), cmap=palette, norm=norm, extent=box, origin="upper", interpolation="nearest"
    )


def _hatch(axes: Axes, grid: xr.Dataset, extent: tuple[float, ...]) -> None:
    """Stripes over cells outside the area of applicability; grey where there is no imagery."""
    code = np.asarray(grid["supported"], dtype=float)
    finer = int(np.clip(np.sqrt(_MOST_PIXELS / code.size), 1, 6))
    for value, stripes, colour in ((OUTSIDE, "////", "none"), (NO_IMAGERY, "", _MISSING)):
        mask = np.repeat(np.repeat(code == value, finer, axis=0), finer, axis=1).astype(float)
        if not mask.any():
            continue
        rows, columns = mask.shape
        x = extent[0] + (np.arange(columns) + 0.5) * (extent[1] - extent[0]) / columns
        y = extent[3] - (np.arange(rows) + 0.5) * (extent[3] - extent[2]) / rows
        framed = np.pad(mask, 1)
        x, y = (np.concatenate([[2 * v[0] - v[1]], v, [2 * v[-1] - v[-2]]]) for v in (x, y))
        with mpl.rc_context({"hatch.linewidth": 0.7, "hatch.color": INK}):
            axes.contourf(x, y, framed, levels=[0.5, 1.5], hatches=[stripes], colors=colour)


def _draw_outlines(axes: Axes, shown: RegionShown) -> None:
    for name, polygon in zip(shown.polygons.index, shown.polygons.geometry, strict=True):
        _outline(axes, polygon, color=INK, lw=0.9)
        if len(shown.polygons) <= _MOST_LABELS:
            at = polygon.representative_point()
            axes.text(at.x, at.y, str(name), fontsize=8, ha="center", va="center", path_effects=halo())
    if shown.footprint is not None:
        for polygon in shown.footprint:
            _outline(axes, polygon, color=BLUE, lw=1.6, ls="--")


def _outline(axes: Axes, polygon: Any, **look: Any) -> None:
    for part in shapely.get_parts(polygon):
        for ring in (part.exterior, *part.interiors):
            x, y = np.asarray(ring.coords).T[:2]
            axes.plot(x, y, **look)


def _legend(shown: RegionShown) -> list[Any]:
    handles: list[Any] = [
        Patch(facecolor="white", edgecolor=INK, hatch="////", label="too unlike the trial: not supported"),
        Patch(facecolor=_MISSING, label="no imagery"),
        Line2D([], [], color=INK, lw=0.9, label="regions"),
    ]
    if shown.footprint is not None:
        handles.append(Line2D([], [], color=BLUE, lw=1.6, ls="--", label="where the trial was (coarse)"))
    return handles


def draw_overlap(overlap: Overlap) -> Figure:
    """Membership scores of trial and region, and the moderators' differences before and after weighting."""
    figure = new_figure(2.2 + 0.24 * max(8, len(overlap.moderators)))
    scores, balance = figure.subplots(1, 2, width_ratios=[1.15, 1])
    sides = (
        (overlap.trial_share, BLUE, "-", "trial"),
        (overlap.weighted_share, BLUE, ":", "trial, weighted to the region"),
        (overlap.region_share, VERMILLION, "-", "region"),
    )
    for share, colour, line, label in sides:
        scores.stairs(100 * share, overlap.edges, color=colour, ls=line, lw=1.8, label=label)
    scores.set_title("Who is where?")
    scores.set_xlabel("log odds of being in the trial")
    scores.set_ylabel("% of each side")
    scores.set_ylim(top=1.38 * 100 * max(float(side[0].max()) for side in sides))
    scores.legend(loc="upper left", fontsize=9)
    rows = np.arange(len(overlap.moderators))[::-1]
    balance.axvline(0, color=GREY, lw=0.8)
    balance.plot(overlap.difference, rows, "o", color=BLUE, mfc="white", label="trial")
    balance.plot(overlap.weighted_difference, rows, "o", color=BLUE, label="weighted")
    balance.set_yticks(rows, [name.replace("_", " ") for name in overlap.moderators], fontsize=8.5)
    balance.set_title("Moderators: trial less region")
    balance.set_xlabel("standard deviations of the region")
    balance.set_ylim(-0.7, len(rows) + 1.3)
    balance.legend(
        loc="upper right", fontsize=9, ncols=2, frameon=True, facecolor="white", edgecolor="none", framealpha=1
    )
    return figure


def draw_risk(risk: RiskCoverage) -> Figure:
    """Risk among the cells for which the map speaks, the surest first, against chance and the best order."""
    figure = new_figure(3.9)
    axes = figure.subplots()
    known: BoolArray = np.isfinite(risk.risk)
    share = 100 * risk.share[known]
    low, high = (risk.risk[known] + sign * 1.96 * risk.std_err[known] for sign in (-1, 1))
    axes.fill_between(share, np.maximum(low, 0), high, color=PALE, label="95 % interval, pointwise")
    axes.plot(share, risk.risk[known], color=VERMILLION, lw=2, marker="o", ms=3.5, label="surest first")
    axes.axhline(risk.chance_area, color=GREY, ls="--", label="in random order")
    axes.plot(share, risk.best_risk[known], color=GREY, ls=":", label="the best order there is")
    axes.set_xlabel("% of places for which the map speaks")
    axes.set_ylabel("mean loss among them")
    axes.set_ylim(bottom=0)
    axes.set_title("Does the map err less where it is surer?")
    axes.legend(fontsize=9)
    return figure
