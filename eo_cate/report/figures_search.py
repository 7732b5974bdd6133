"""The scale search as a heat map: scales against scales, single scales on the diagonal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from eo_cate.report.format import fmt, fmt_p
from eo_cate.report.rows import records
from eo_cate.report.style import INK, new_figure
from eo_cate.report.words_tests import num_scales
from eo_cate.types import FloatArray

_COLOURS = "Blues"
_REACH = 4.0  # the ratios of a search without a signal stay pale


def draw_search(search: pd.DataFrame, search_p: Mapping[str, float]) -> Figure:
    """Colour: RATE ratio (sequential AUTOC, RidgeR); text: ratio and adjusted p; larger sets are listed beneath.

    Parameters
    ----------
    search : DataFrame
        Columns `eo_cate.report.inputs.SEARCH_COLUMNS`.
    search_p : dict
        ``everything`` and ``family`` are in the title.
    """
    rows = {tuple(int(s) for s in str(row["scales"]).split("+")): row for row in records(search)}
    scales = sorted({scale for pair in rows if len(pair) <= 2 for scale in pair})
    larger = [row for row in rows.values() if num_scales(row) > 2]
    side = max(4.0, 0.85 * len(scales))
    figure = new_figure(side + 1.7 + 0.2 * len(larger), width_in=side + 3.0)
    axes = figure.subplots()
    ratios = np.full((len(scales), len(scales)), np.nan)
    for pair, row in rows.items():
        if len(pair) <= 2:
            i, j = sorted((scales.index(pair[0]), scales.index(pair[-1])), reverse=True)
            ratios[i, j] = row["ratio"]
    norm = _norm(ratios)
    picture = axes.imshow(np.ma.masked_invalid(ratios), cmap=_COLOURS, norm=norm, aspect="equal")
    for pair, row in rows.items():
        if len(pair) <= 2:
            i, j = sorted((scales.index(pair[0]), scales.index(pair[-1])), reverse=True)
            _write_cell(axes, (j, i), row, norm, single=len(pair) == 1)
    names = [f"{scale} px" for scale in scales]
    axes.set_xticks(range(len(scales)), names)
    axes.set_yticks(range(len(scales)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="RATE ratio (AUTOC, RidgeR)")
    figure.suptitle(
        f"All scales in one test: p {fmt_p(search_p['everything'])}\n"
        f"Search over {len(rows)} sets, family-wise: p {fmt_p(search_p['family'])}",
        x=0.02, ha="left", fontsize=10.5,
    )  # fmt: skip
    note = ["diagonal: single scales; in the cells: ratio, adjusted p"]
    note += [f"{_name(row)}: ratio {fmt(row['ratio'], 2)}, adjusted p {fmt_p(row['adjusted_p'])}" for row in larger]
    figure.supxlabel("\n".join(note), x=0.02, ha="left", fontsize=9)
    return figure


def _name(row: Mapping[str, Any]) -> str:
    return str(row["scales"]).replace("+", " + ") + " px"


def _norm(ratios: FloatArray) -> Normalize:
    known = ratios[np.isfinite(ratios)]
    return Normalize(min(0.0, *known), max(_REACH, *known)) if len(known) else Normalize(0.0, _REACH)


def _write_cell(axes: Axes, xy: tuple[int, int], row: Mapping[str, Any], norm: Normalize, *, single: bool) -> None:
    value = float(row["ratio"])
    shade = mpl.colormaps[_COLOURS](norm(value)) if math.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
    dark = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.42
    colour = "white" if dark else INK
    axes.text(xy[0], xy[1] - 0.13, fmt(value, 2), ha="center", va="center", color=colour, fontsize=11,
              fontweight="bold" if single else "normal")  # fmt: skip
    axes.text(xy[0], xy[1] + 0.2, f"p {fmt_p(row['adjusted_p'])}", ha="center", va="center", color=colour, fontsize=8.5)
