"""Figures of the RATE, the TOC curves, and estimates against the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eo_cate.report.inputs import ReportInputs
from eo_cate.report.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, SKY, VERMILLION, new_figure
from eo_cate.report.tables import truth_table
from eo_cate.report.words import decimals_for, fmt, fmt_p, headline_row, rate_rows

NORMAL_95 = 1.959964
ONE_SIDED_5 = 1.644854
_SINGLE_STYLES = ((ORANGE, (0, (5, 2))), (SKY, (0, (3, 1.5))), (PURPLE, (0, (1, 1.2))), (GREEN, (0, (7, 2, 1, 2))))
_TEXT_COLUMNS = (1.13, 1.34)  # right edges of the figures beside the ratios, in widths of the panel
_FIRST_Q = 0.1  # below, a TOC is the mean of a few units: drawn, but it does not set the axis


def draw_rates(inputs: ReportInputs) -> Figure:
    """Estimates with intervals (left) and RATE ratios with the placebo band (right); results above, controls below."""
    results, controls = rate_rows(inputs, role="result"), rate_rows(inputs, role="control")
    rows = results + controls
    heights = -np.arange(len(rows), dtype=float) - 0.8 * (np.arange(len(rows)) >= len(results))
    figure = new_figure(1.5 + 0.34 * (len(rows) + 1))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1], gridspec_kw={"wspace": 0.08})
    _draw_estimates(left, rows, heights, headline_row(inputs)["configuration"])
    _draw_ratios(right, rows, heights, inputs)
    several = len({row["estimator"] for row in rows if row["configuration"] != "oracle"}) > 1
    labels = [f"{row['configuration']} ({row['estimator']})" if several else row["configuration"] for row in rows]
    left.set_yticks(heights, labels)
    left.set_ylim(heights[-1] - 0.7, 0.7)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if controls and results:
            axes.axhline(-len(results) + 0.1, color=GREY, lw=0.8)
            axes.text(0.004, -len(results) - 0.13, "controls", color=GREY, fontsize=8.5, ha="left", va="center",
                      transform=axes.get_yaxis_transform()) if axes is left else None  # fmt: skip
    return figure


def _colour(row: dict[str, Any], headline: str) -> str:
    if row["configuration"] == headline:
        return VERMILLION
    return BLUE if row["role"] == "result" else GREEN if row["configuration"] == "oracle" else GREY


def _draw_estimates(axes: Axes, rows: list[dict[str, Any]], heights: Any, headline: str) -> None:
    for row, height in zip(rows, heights, strict=True):
        colour = _colour(row, headline)
        axes.plot([row["low"], row["high"]], [height, height], color=colour, lw=1.8, solid_capstyle="butt")
        face = colour if row["role"] == "result" else "white"
        axes.plot(row["estimate"], height, "o", color=colour, markerfacecolor=face, ms=6.5, mew=1.6)
    axes.axvline(0, color=INK, lw=0.9, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title("AUTOC with 95 % interval")
    axes.set_xlabel("units of the outcome")


def _draw_ratios(axes: Axes, rows: list[dict[str, Any]], heights: Any, inputs: ReportInputs) -> None:
    shuffled = inputs.shuffled_ratios[np.isfinite(inputs.shuffled_ratios)]
    if len(shuffled):
        label = f"range of {len(shuffled)} shuffled embeddings"
        axes.axvspan(shuffled.min(), shuffled.max(), color=PALE, zorder=0, label=label, lw=0)
    headline = headline_row(inputs)["configuration"]
    for row, height in zip(rows, heights, strict=True):
        colour = _colour(row, headline)
        face = colour if row["role"] == "result" else "white"
        if row["configuration"] == "shuffled":
            axes.plot(shuffled, np.full(len(shuffled), height), "|", color=GREY, ms=9, mew=1.1)
        axes.plot(row["ratio"], height, "o", color=colour, markerfacecolor=face, ms=6.5, mew=1.6)
        figures = (fmt(row["ratio"], 2), fmt_p(row["p"]))
        for x, text in zip(_TEXT_COLUMNS, figures, strict=True):
            axes.text(x, height, text, ha="right", va="center", color=INK, transform=axes.get_yaxis_transform())
    for x, text in zip(_TEXT_COLUMNS, ("ratio", "p"), strict=True):
        axes.text(x, 0.95, text, ha="right", va="center", color=GREY, transform=axes.get_yaxis_transform())
    axes.axvline(0, color=INK, lw=0.9, zorder=0.5)
    axes.axvline(ONE_SIDED_5, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=0.5, label="1.64: one-sided 5 %")
    axes.set_title("RATE ratio")
    axes.set_xlabel("estimate / standard error")
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize=9)


def draw_toc(inputs: ReportInputs) -> Figure:
    """TOC curves: how much more the best-ranked share gains than everybody, with a clustered and a placebo band."""
    figure = new_figure(4.6)
    axes = figure.subplots()
    first = next(iter(inputs.tocs.values()))
    seen: list[np.ndarray] = [np.zeros(1)]
    if inputs.placebo_tocs is not None and len(inputs.placebo_tocs):
        low, high = inputs.placebo_tocs.min(axis=0), inputs.placebo_tocs.max(axis=0)
        label = f"range of {len(inputs.placebo_tocs)} shuffled embeddings"
        axes.fill_between(first.q, low, high, color=PALE, lw=0, label=label)
        seen += [low[first.q >= _FIRST_Q], high[first.q >= _FIRST_Q]]
    band = next((n for n in ("image_multi", "image_multi+tabular") if n in inputs.tocs), None)
    if band is not None:
        curve = inputs.tocs[band]
        low, high = curve.toc - NORMAL_95 * curve.std_err, curve.toc + NORMAL_95 * curve.std_err
        label = f"{band}: pointwise 95 %, clustered"
        axes.fill_between(curve.q, low, high, color=BLUE, alpha=0.16, lw=0, label=label)
        seen += [low[curve.q >= _FIRST_Q], high[curve.q >= _FIRST_Q]]
    for name, look in _toc_looks(inputs).items():
        curve = inputs.tocs[name]
        axes.plot(curve.q, curve.toc, label=name, **look)
        seen.append(curve.toc[curve.q >= _FIRST_Q])
    values = np.concatenate(seen)
    values = values[np.isfinite(values)]
    margin = 0.06 * (np.ptp(values) or 1.0)
    axes.set(xlim=(0, 1), ylim=(values.min() - margin, values.max() + margin))
    axes.axhline(0, color=INK, lw=0.9)
    axes.set_xlabel("share of units treated, best-ranked first (q)")
    axes.set_ylabel("extra effect over treating all\n(units of the outcome)")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _toc_looks(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """Line styles by configuration; colour is never the only difference."""
    singles = [name for name in inputs.tocs if name.removeprefix("image_").isdigit()]
    looks: dict[str, dict[str, Any]] = {}
    for j, name in enumerate(singles):
        colour, dashes = _SINGLE_STYLES[j % len(_SINGLE_STYLES)]
        looks[name] = {"color": colour, "ls": dashes, "lw": 1.7}
    fixed: dict[str, dict[str, Any]] = {
        "image_multi": {"color": BLUE, "lw": 2.4},
        "image_multi+tabular": {"color": VERMILLION, "lw": 2.0, "ls": (0, (8, 2))},
        "tabular": {"color": INK, "lw": 1.5, "ls": (0, (1, 1))},
    }
    return looks | {name: look for name, look in fixed.items() if name in inputs.tocs}


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
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.supxlabel("true effect", fontsize=10)
    figure.supylabel("estimate (out of group)", fontsize=10)
    return figure
