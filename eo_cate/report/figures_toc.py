"""TOC curves: how much more the best-ranked share gains than everybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eo_cate.report.inputs import ReportInputs, Toc
from eo_cate.report.rows import estimator_name, estimators_of, headline_name
from eo_cate.report.style import BLUE, GREEN, INK, ORANGE, PALE, PURPLE, SKY, VERMILLION, new_figure
from eo_cate.types import FloatArray

NORMAL_95 = 1.959964
_SINGLE_STYLES = ((ORANGE, (0, (5, 2))), (SKY, (0, (3, 1.5))), (PURPLE, (0, (1, 1.2))), (GREEN, (0, (7, 2, 1, 2))))
_FIRST_Q = 0.1  # below, a TOC is the mean of a few units: drawn, but it does not set the axis


def draw_tocs(inputs: ReportInputs) -> Figure:
    """One panel per estimator on the same axes: curves, a clustered band, and RidgeR's placebo band."""
    shown = {name: inputs.tocs[name] for name in estimators_of(inputs) if inputs.tocs.get(name)}
    figure = new_figure(4.9, width_in=9.0 if len(shown) > 1 else 6.5)
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False).ravel()
    seen: list[FloatArray] = [np.zeros(1)]
    for axes, (estimator, curves) in zip(panels, shown.items(), strict=True):
        placebo = inputs.placebo_tocs if estimator == "ridge" else None
        seen += _draw_panel(axes, curves, placebo, headline_name(inputs))
        axes.set_title(estimator_name(estimator))
        axes.set_xlabel("share treated, best-ranked first (q)")
    values = np.concatenate(seen)
    values = values[np.isfinite(values)]
    margin = 0.06 * (np.ptp(values) or 1.0)
    panels[0].set(xlim=(0, 1), ylim=(values.min() - margin, values.max() + margin))
    panels[0].set_ylabel("extra effect over treating all\n(units of the outcome)")
    entries = {t: h for axes in panels for h, t in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _draw_panel(axes: Axes, curves: Mapping[str, Toc], placebo: FloatArray | None, headline: str) -> list[Any]:
    """Draw one estimator's curves and return what must be inside the axis."""
    q = next(iter(curves.values())).q
    kept, seen = q >= _FIRST_Q, []
    if placebo is not None and len(placebo):
        low, high = placebo.min(axis=0), placebo.max(axis=0)
        axes.fill_between(q, low, high, color=PALE, lw=0, label=f"{len(placebo)} shuffled embeddings (RidgeR): range")
        seen += [low[kept], high[kept]]
    looks = _looks(list(curves))
    band = next((name for name in (headline, *looks) if name in looks), None)
    if band is not None:
        half = NORMAL_95 * curves[band].std_err
        low, high = curves[band].toc - half, curves[band].toc + half
        label = f"{band}: pointwise 95 %, clustered"
        axes.fill_between(q, low, high, color=VERMILLION, alpha=0.16, lw=0, label=label)
        seen += [low[kept], high[kept]]
    for name, look in looks.items():
        axes.plot(q, curves[name].toc, label=name, **look)
        seen.append(curves[name].toc[kept])
    axes.axhline(0, color=INK, lw=0.9)
    return seen


def _looks(names: list[str]) -> dict[str, dict[str, Any]]:
    """Line styles by configuration; colour is never the only difference. Controls have no curve here."""
    singles = [name for name in names if name.removeprefix("image_").isdigit()]
    looks: dict[str, dict[str, Any]] = {}
    for j, name in enumerate(singles):
        colour, dashes = _SINGLE_STYLES[j % len(_SINGLE_STYLES)]
        looks[name] = {"color": colour, "ls": dashes, "lw": 1.5}
    fixed: dict[str, dict[str, Any]] = {
        "image_multi": {"color": BLUE, "lw": 2.2},
        "image_multi+tabular": {"color": VERMILLION, "lw": 2.2, "ls": (0, (8, 2))},
        "tabular": {"color": INK, "lw": 1.5, "ls": (0, (1, 1))},
    }
    return looks | {name: look for name, look in fixed.items() if name in names}
