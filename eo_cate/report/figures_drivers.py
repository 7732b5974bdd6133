"""Observables beside the ranking: differences, effects by quantity, curves, and a gallery without places."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from eo_cate.report.drivers_inputs import MOST_QUANTITIES, DriversShown, Gallery
from eo_cate.report.drivers_words import drawn_labels, in_std_dev
from eo_cate.report.format import fmt
from eo_cate.report.rows import LEVEL, Row, by_estimator, estimator_name
from eo_cate.report.style import BLUE, GREY, INK, PALE, VERMILLION, look_of, new_figure
from eo_cate.types import FloatArray

_OFFSET = 0.16
_PANELS = 4


def draw_differences(table: pd.DataFrame) -> Figure:
    """Highest less lowest quartile of tau_hat in standard deviations of each observable, with 95 % intervals.

    Filled: adjusted p of at most 5 %. Of many observables those with the smallest p are drawn.
    """
    labels = drawn_labels(table)
    heights = {label: -float(i) for i, label in enumerate(labels)}
    figure = new_figure(1.5 + 0.27 * len(labels), width_in=8.6)
    axes = figure.subplots()
    estimators = sorted(dict.fromkeys(table["estimator"]), key=lambda name: name != "ridge")
    for row in by_estimator(table):
        if row["label"] in heights:
            shift = _OFFSET * (len(estimators) - 1 - 2 * estimators.index(row["estimator"]))
            _draw_difference(axes, row, heights[row["label"]] + shift)
    axes.axvline(0, color=INK, lw=0.9, zorder=0)
    axes.set_yticks(list(heights.values()), labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-len(labels) + 0.3, 0.7)
    axes.grid(axis="y", color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    _separate_kinds(axes, table, labels)
    axes.set_title("Highest less lowest quartile of out-of-group tau_hat")
    axes.set_xlabel("standard deviations of the observable, with 95 % interval")
    figure.legend(handles=_estimator_keys(estimators), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _draw_difference(axes: Axes, row: Row, height: float) -> None:
    colour, marker = look_of(row["estimator"])
    low, middle, high = (in_std_dev(row, key) for key in ("low", "difference", "high"))
    face = colour if row["adjusted_p"] <= LEVEL else "white"
    axes.plot([low, high], [height] * 2, color=colour, lw=1.5, solid_capstyle="butt")
    axes.plot(middle, height, marker, color=colour, markerfacecolor=face, ms=5.2, mew=1.3)


def _separate_kinds(axes: Axes, table: pd.DataFrame, labels: list[str]) -> None:
    kinds = dict(zip(table["label"], table["kind"], strict=True))
    for i, (above, below) in enumerate(itertools.pairwise(labels)):
        if kinds[above] != kinds[below]:
            axes.axhline(-i - 0.5, color=GREY, lw=0.8)


def _estimator_keys(estimators: list[str]) -> list[Any]:
    keys = []
    for estimator in estimators:
        colour, marker = look_of(estimator)
        keys.append(Line2D([], [], color=colour, marker=marker, ms=5.2, lw=1.5, label=estimator_name(estimator)))
    hollow = Line2D([], [], color=INK, marker="o", markerfacecolor="white", ms=5.2, ls="none")
    hollow.set_label("hollow: adjusted p above 5 %")
    return [*keys, hollow]


def draw_effects(effects: pd.DataFrame, ate: tuple[float, float]) -> Figure:
    """Average effects by quartile of each quantity, its scales side by side; of many quantities the first are drawn."""
    names = list(dict.fromkeys(effects["observable"]))[:MOST_QUANTITIES]
    scales = list(dict.fromkeys(effects["scale"]))
    pairs = [(name, scale) for name in names for scale in scales]
    columns = len(scales) * max(1, _PANELS // len(scales))
    lines = math.ceil(len(pairs) / columns)
    figure = new_figure(0.8 + 1.75 * lines, width_in=max(9.0, 2.2 * columns))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes in panels[len(pairs) :]:
        axes.set_visible(False)
    for axes, (name, scale) in zip(panels, pairs, strict=False):
        rows = effects[(effects["observable"] == name) & (effects["scale"] == scale)]
        axes.axhline(0, color=GREY, lw=0.9, zorder=0)
        axes.axhline(ate[0], color=INK, lw=1.0, ls=(0, (4, 3)), zorder=0)
        axes.vlines(rows["mean"], rows["low"], rows["high"], color=BLUE, lw=2.0)
        axes.plot(rows["mean"], rows["estimate"], "o-", color=BLUE, ms=5, lw=0.8)
        axes.set_title(f"{name}, {scale}" if len(rows) else f"{name}, {scale}: no quartiles", fontsize=9.5)
        axes.margins(x=0.1)
        axes.tick_params(labelsize=8.5)
        axes.locator_params(axis="x", nbins=4)
    figure.supylabel("average effect", fontsize=10)
    figure.supxlabel("mean of the quantity in its quartile; dashed: average effect of all", fontsize=10)
    return figure


def draw_curves(shown: DriversShown) -> Figure:
    """Partial dependence (thick) over some units' own curves (thin), a panel per covariate on the same axis."""
    names = list(dict.fromkeys(shown.curves["covariate"]))
    figure = new_figure(3.1)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=True):
        rows = shown.curves[shown.curves["covariate"] == name]
        marker = "o" if len(rows) <= 3 else None
        if name in shown.ice:
            axes.plot(rows["value"], shown.ice[name].T, color=GREY, lw=0.5, alpha=0.45)
        axes.fill_between(rows["value"], rows["low"], rows["high"], color=PALE, lw=0, zorder=0)
        axes.plot(rows["value"], rows["estimate"], marker=marker, color=VERMILLION, lw=2.2)
        share = rows["importance"].iloc[0]
        axes.set_title(name if not np.isfinite(share) else f"{name}\n{fmt(100 * share, 1)} % of early splits")
        axes.locator_params(axis="x", nbins=4)
    figure.supxlabel("value of the covariate", fontsize=10)
    panels[0].set_ylabel("tau_hat (units of the outcome)")
    return figure


def draw_gallery(gallery: Gallery) -> Figure:
    """Sites that respond most above those that respond least; nothing that names a place."""
    columns = max(len(gallery.most), len(gallery.least))
    figure = new_figure(4.1, width_in=1.55 * columns + 0.4)
    panels = figure.subplots(2, columns, squeeze=False)
    for line, (images, words) in zip(panels, ((gallery.most, "most"), (gallery.least, "least")), strict=True):
        for rank, axes in enumerate(line, start=1):
            axes.set_axis_off()
            if rank <= len(images):
                _draw_image(axes, images[rank - 1], gallery.inner)
                axes.set_title(f"{words} {rank}", fontsize=9, loc="center")
    figure.supxlabel(f"every image is {gallery.side} wide and high", fontsize=9.5)
    return figure


def _draw_image(axes: Axes, image: FloatArray, inner: tuple[float, ...]) -> None:
    side = len(image)
    axes.imshow(np.where(np.isfinite(image), image, 0.5), interpolation="nearest")
    for share in inner:
        corner = side * (1 - share) / 2 - 0.5
        for colour, width in ((INK, 1.6), ("white", 0.7)):
            axes.add_patch(Rectangle((corner, corner), side * share, side * share, fill=False, ec=colour, lw=width))
