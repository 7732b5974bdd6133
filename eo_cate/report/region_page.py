"""The interactive map of a region: one file that loads nothing, with the values of every cell and polygon."""

from __future__ import annotations

import json
import math
from typing import Any

import matplotlib as mpl
import numpy as np
import shapely
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from eo_cate.report.inputs import ReportInputs
from eo_cate.report.maps import centred_norm, guard_lines, imagery_credit
from eo_cate.report.numbers import to_plain
from eo_cate.report.region_inputs import RegionShown
from eo_cate.report.region_words import band_words, region_cells, support_words
from eo_cate.report.rows import map_guards, map_warning
from eo_cate.report.style import DIVERGING
from eo_cate.report.templates import open_templates

MOST_PIXELS = 250_000
"""Larger maps are shown with every k-th cell, and say so."""
LAYERS = {
    "tau_hat": "Estimated effect",
    "std_err": "Standard error",
    "band": "Half width of the 90 % band",
    "dissimilarity": "Dissimilarity",
    "local_point_density": "Trial sites that are near",
    "transport_weight": "Transport weight",
    "true_effect": "True effect (simulation)",
}
_SHADES = 64


def render_region(inputs: ReportInputs) -> str:
    """The page of a run with a region."""
    shown = inputs.region
    if shown is None:
        raise ValueError("render_region needs a region")
    data = map_data(inputs, shown)
    # "<" only ever occurs inside strings of JSON; escaped, no name can end the script.
    script = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        open_templates()
        .get_template("region_page.html.j2")
        .render(
            title=inputs.config.title or inputs.config.name,
            data=script,
            guards=guard_lines(map_guards(inputs)).split("\n"),
            warning=map_warning(inputs),
            support=support_words(shown),
            bands=band_words(shown),
            credit=imagery_credit(inputs),
            names=[str(name) for name in shown.polygons.index],
            coarser=data["step"],
        )
    )


def map_data(inputs: ReportInputs, shown: RegionShown) -> dict[str, Any]:
    """Cells, colours, outlines and the polygons' figures as plain values."""
    step = max(1, math.ceil(math.sqrt(shown.layers["tau_hat"].size / MOST_PIXELS)))
    grid = shown.layers.isel(y=slice(step // 2, None, step), x=slice(step // 2, None, step))
    layers = [_layer(name, np.asarray(grid[name], dtype=float), inputs.ate[0]) for name in LAYERS if name in grid]
    head, *rows = region_cells(shown)
    return {
        "columns": grid.sizes["x"],
        "rows": grid.sizes["y"],
        "step": step,
        "layers": [layer for layer in layers if layer is not None],
        "supported": _codes(grid["supported"]),
        "codes": shown.layers["supported"].attrs["flag_meanings"].replace("_", " "),
        "meanings": [words.replace("_", " ") for words in shown.layers["supported"].attrs["flag_meanings"].split()],
        "region": _codes(grid["region"]),
        "outlines": [_path(polygon, shown, step) for polygon in shown.polygons.geometry],
        "footprint": "" if shown.footprint is None else _path(shown.footprint.iloc[0], shown, step),
        "head": list(head),
        "cells": [[*row, str(reason)] for row, reason in zip(rows, shown.table["reason"], strict=True)],
    }


def _layer(name: str, values: NDArray[np.float64], ate: float) -> dict[str, Any] | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    if name in ("tau_hat", "true_effect"):
        norm, colours = centred_norm([values], ate), DIVERGING
        low, high = float(norm.vmin or 0.0), float(norm.vmax or 0.0)
    else:
        low, high, colours = float(known.min()), float(np.quantile(known, 0.98)), "cividis"
    shades = [to_hex(mpl.colormaps[colours](k / (_SHADES - 1))) for k in range(_SHADES)]
    rounded = [None if not math.isfinite(v) else float(f"{v:.4g}") for v in values.ravel().tolist()]
    return {
        "name": name, "title": LAYERS[name], "low": low, "high": max(high, low + 1e-12), "shades": shades,
        "values": to_plain(rounded),
    }  # fmt: skip


def _codes(layer: Any) -> list[int]:
    values = np.asarray(layer, dtype=float).ravel()
    return [int(v) if math.isfinite(v) else -1 for v in values.tolist()]


def _path(polygon: Any, shown: RegionShown, step: int) -> str:
    """SVG path in units of the drawn cells."""
    a, _, c, _, e, f = shown.layers.attrs["transform"]
    simple = shapely.simplify(polygon, abs(a) * step / 4)
    parts = []
    for part in shapely.get_parts(simple):
        for ring in (part.exterior, *part.interiors):
            xy = np.asarray(ring.coords)[:, :2]
            points = np.column_stack([(xy[:, 0] - c) / a / step, (xy[:, 1] - f) / e / step]).round(2)
            parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(parts)
