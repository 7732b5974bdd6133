"""Figures of the RATE, and of estimates against the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from eo_cate.report.format import decimals_for, fmt, fmt_p
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.rows import Row, estimator_name, estimators_of, headline_name, ordered_configurations, rate_rows
from eo_cate.report.style import BLUE, GREY, INK, ORANGE, PALE, look_of, new_figure
from eo_cate.report.tables import truth_table

ONE_SIDED_5 = 1.644854
_OFFSET = 0.17  # between the two estimators of a line


def draw_rates(inputs: ReportInputs) -> Figure:
    """Estimates with intervals (left), RATE ratios with the placebo band and their figures (right).

    One line per configuration, one marker per estimator; results above, controls below.
    """
    results, controls = (ordered_configurations(inputs, role) for role in ("result", "control"))
    names = [name for name in (*results, *controls) if any(r["configuration"] == name for r in rate_rows(inputs))]
    heights = {name: -1.0 * i - 0.9 * (name in controls) * bool(results) for i, name in enumerate(names)}
    figure = new_figure(1.9 + 0.42 * (len(names) + 1), width_in=10.0)
    left, right, text = figure.subplots(1, 3, sharey=True, width_ratios=[1.1, 1.0, 0.82], gridspec_kw={"wspace": 0.04})
    rows = [row | {"height": heights[row["configuration"]] + _offset(inputs, row)} for row in rate_rows(inputs)]
    _draw_estimates(left, rows)
    _draw_ratios(right, rows, inputs)
    _write_figures(text, rows, heights, inputs)
    left.set_yticks(list(heights.values()), list(heights))
    for label, name in zip(left.get_yticklabels(), heights, strict=True):
        label.set_fontweight("bold" if name == headline_name(inputs) else "normal")
    left.set_ylim(min(heights.values()) - 0.7, 0.75)
    for axes in (left, right, text):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.axhspan(heights[headline_name(inputs)] - 0.45, heights[headline_name(inputs)] + 0.45, color="#FBF3E6",
                     zorder=-2, lw=0) if headline_name(inputs) in heights else None  # fmt: skip
        if controls and results:
            axes.axhline(-len(results) + 0.05, color=GREY, lw=0.8)
    if controls and results:
        left.text(0.004, -len(results) - 0.28, "controls", color=GREY, fontsize=8.5, ha="left", va="center",
                  transform=left.get_yaxis_transform())  # fmt: skip
    _add_legend(figure, inputs, right)
    return figure


def _offset(inputs: ReportInputs, row: Row) -> float:
    """RidgeR above, the other below the line; alone on it, a marker sits in the middle."""
    own = [r["estimator"] for r in rate_rows(inputs) if r["configuration"] == row["configuration"]]
    order = [name for name in estimators_of(inputs) if name in own]
    if len(order) < 2 or row["estimator"] not in order:
        return 0.0
    return _OFFSET * (1 - 2 * order.index(row["estimator"]) / (len(order) - 1))


def _look(row: Row) -> dict[str, Any]:
    colour, marker = look_of(row["estimator"])
    face = colour if row["role"] == "result" else "white"
    return {"color": colour, "marker": marker, "markerfacecolor": face, "ms": 6.2, "mew": 1.5, "ls": "none"}


def _draw_estimates(axes: Axes, rows: list[Row]) -> None:
    for row in rows:
        look = _look(row)
        axes.plot([row["low"], row["high"]], [row["height"]] * 2, color=look["color"], lw=1.7, solid_capstyle="butt")
        axes.plot(row["estimate"], row["height"], **look)
    axes.axvline(0, color=INK, lw=0.9, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title("AUTOC with 95 % interval")
    axes.set_xlabel("units of the outcome")


def _draw_ratios(axes: Axes, rows: list[Row], inputs: ReportInputs) -> None:
    shuffled = inputs.shuffled_ratios[np.isfinite(inputs.shuffled_ratios)]
    if len(shuffled):
        axes.axvspan(shuffled.min(), shuffled.max(), color=PALE, zorder=-1, lw=0)
    for row in rows:
        if row["configuration"] == "shuffled":
            axes.plot(shuffled, np.full(len(shuffled), row["height"]), "|", color=GREY, ms=9, mew=1.1)
        axes.plot(row["ratio"], row["height"], **_look(row))
    axes.axvline(0, color=INK, lw=0.9, zorder=0.5)
    axes.axvline(ONE_SIDED_5, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=0.5)
    axes.margins(x=0.06)
    axes.set_title("RATE ratio")
    axes.set_xlabel("estimate / standard error")


def _write_figures(axes: Axes, rows: list[Row], heights: dict[str, float], inputs: ReportInputs) -> None:
    """Ratio and p of every estimator as columns of text."""
    estimators = estimators_of(inputs)
    axes.set(xlim=(0, 1), xticks=[])
    axes.spines["bottom"].set_visible(False)
    edges = np.linspace(0.0, 1.0, 2 * len(estimators) + 1)[1:]
    for j, estimator in enumerate(estimators):
        colour = look_of(estimator)[0]
        for edge, word in zip(edges[2 * j : 2 * j + 2], ("ratio", "p"), strict=True):
            axes.text(edge, 0.62, word, ha="right", va="center", color=colour, fontsize=9)
        axes.text(edges[2 * j + 1], 1.0, estimator_name(estimator), ha="right", va="bottom", color=colour,
                  fontsize=10.5, fontweight="bold", transform=axes.get_xaxis_transform())  # fmt: skip
    for row in rows:
        j = estimators.index(row["estimator"]) if row["estimator"] in estimators else 0
        for edge, word in zip(edges[2 * j : 2 * j + 2], (fmt(row["ratio"], 2), fmt_p(row["p"])), strict=True):
            axes.text(edge, heights[row["configuration"]], word, ha="right", va="center",
                      color=INK if row["estimator"] in estimators else look_of("truth")[0])  # fmt: skip


def _add_legend(figure: Figure, inputs: ReportInputs, axes: Axes) -> None:
    entries: list[Any] = []
    kinds = [*estimators_of(inputs), *(["truth"] if "truth" in set(inputs.rates["estimator"]) else [])]
    for estimator in kinds:
        colour, marker = look_of(estimator)
        entries.append(Line2D([], [], color=colour, marker=marker, ls="none", ms=6.2, label=estimator_name(estimator)))
    entries.append(Line2D([], [], color=INK, lw=0.9, ls=(0, (4, 3)), label="1.64: one-sided 5 %"))
    number = int(np.isfinite(inputs.shuffled_ratios).sum())
    if number:
        entries.append(Patch(color=PALE, lw=0, label=f"range of {number} shuffled embeddings (RidgeR)"))
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), fontsize=9, columnspacing=1.4)


def draw_truth(inputs: ReportInputs) -> Figure:
    """Out-of-group estimates against true effects, one panel per configuration, equal axes."""
    if inputs.truth is None:
        raise ValueError("draw_truth needs the true effects")
    rows = truth_table(inputs)
    columns = min(3, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = new_figure(0.5 + 9.0 / 3 * lines, width_in=max(4.5, 3 * columns))
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    pairs = inputs.truth[["tau", "tau_hat"]].dropna().to_numpy(dtype=float)
    low, high = (pairs.min(), pairs.max()) if len(pairs) else (0.0, 1.0)
    places = decimals_for([float(np.std(pairs)) if len(pairs) else 1.0])
    for axes, row in zip(panels, rows, strict=False):
        table = inputs.truth[inputs.truth["configuration"] == row["configuration"]]
        multi = row["configuration"].startswith("image_multi")
        axes.plot([low, high], [low, high], color=GREY, lw=1)
        axes.plot(table["tau"], table["tau_hat"], "o", ms=3, alpha=0.45, mew=0, color=BLUE if multi else ORANGE)
        axes.set_aspect("equal")
        axes.set_title(
            f"{row['configuration']}\ncorrelation {fmt(row['correlation'], 2)}, RMSE {fmt(row['rmse'], places)}"
        )
    for axes in panels[max(0, len(rows) - columns) : len(rows)]:
        axes.tick_params(labelbottom=True)  # the lowest panel of each column, also above an empty place
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.supxlabel("true effect", fontsize=10)
    figure.supylabel("estimate (out of group)", fontsize=10)
    return figure
