"""GATES: average effects by fifth of the out-of-group estimates."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eo_cate.report.rows import estimator_name
from eo_cate.report.style import GREY, INK, look_of, new_figure

_OFFSET = 0.12


def draw_gates(gates: pd.DataFrame, ate: tuple[float, float]) -> Figure:
    """Effects by fifth with pointwise (thick) and joint (thin) intervals, and highest less lowest beside.

    Parameters
    ----------
    gates : DataFrame
        Columns `eo_cate.report.inputs.GATES_COLUMNS`.
    ate : (float, float)
        Average effect and its standard error, in units of the outcome.
    """
    figure = new_figure(4.4)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[4.2, 1])
    estimators = sorted(dict.fromkeys(gates["estimator"]), key=lambda name: name != "ridge")
    fifths = gates[gates["group"].astype(str) != "difference"]
    for j, estimator in enumerate(estimators):
        shift = _OFFSET * (2 * j - (len(estimators) - 1))
        own = fifths[fifths["estimator"] == estimator]
        _draw_points(left, own["group"].astype(float) + shift, own, estimator)
        last = gates[(gates["estimator"] == estimator) & (gates["group"].astype(str) == "difference")]
        _draw_points(right, pd.Series([shift] * len(last), index=last.index), last, estimator)
    left.axhline(ate[0], color=INK, lw=1.0, ls=(0, (4, 3)), zorder=0, label="average treatment effect")
    for axes in (left, right):
        axes.axhline(0, color=GREY, lw=0.9, zorder=0)
    groups = sorted({int(group) for group in fifths["group"]})
    names = {groups[0]: f"{groups[0]}\nlowest", groups[-1]: f"{groups[-1]}\nhighest"} if groups else {}
    left.set_xticks(groups, [names.get(group, str(group)) for group in groups])
    left.set_xlabel("fifth of the units by out-of-group tau_hat")
    left.set_ylabel("average effect (units of the outcome)")
    left.set_title("Average effect by fifth")
    right.set(xlim=(-0.6, 0.6), xticks=[])
    right.set_title("Highest less lowest")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _draw_points(axes: Axes, x: Any, rows: pd.DataFrame, estimator: str) -> None:
    colour, marker = look_of(estimator)
    axes.vlines(x, rows["joint_low"].astype(float), rows["joint_high"].astype(float), color=colour, lw=0.9)
    axes.plot(x, rows["joint_low"].astype(float), "_", color=colour, ms=7)
    axes.plot(x, rows["joint_high"].astype(float), "_", color=colour, ms=7)
    axes.vlines(x, rows["low"].astype(float), rows["high"].astype(float), color=colour, lw=2.8)
    axes.plot(x, rows["estimate"].astype(float), marker, color=colour, ms=7, label=estimator_name(estimator),
              markeredgecolor="white", mew=0.8)  # fmt: skip
