"""Composite effects of polygons: the trial's units there and the map, which must not have seen them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eo_cate import extrapolation
from eo_cate.errors import EvaluationError
from eo_cate.extrapolation import RegionCells
from eo_cate.types import BoolArray, FloatArray


@dataclass(frozen=True)
class MapError:
    """How the map does where it has seen nothing.

    Parameters
    ----------
    left_out : (n,) float64 or None
        Effects of the trial's units by fits without their polygon; NaN outside all polygons, None where nothing could
        be left out.
    mean_square : float
        Mean squared error of a place's effect; 0 where the trial does not tell.
    """

    left_out: FloatArray | None
    mean_square: float


def add_composite(
    table: pd.DataFrame,
    error: MapError,
    tau_hat: FloatArray,
    owner: pd.Series,
    weights: FloatArray,
    place_share: pd.Series,
    reasons: Mapping[str, list[str]],
    *,
    level: float,
) -> None:
    """Composite of the polygons with a synthetic estimate.

    Parameters
    ----------
    table : DataFrame
        Columns region, direct, pooled_std_err and synthetic; composite columns are filled in.
    error : MapError
    tau_hat, weights : (n,)
        Of the trial's units: effects out of group, and sample weights.
    owner : (n,) Series
        Their polygons; NaN outside all.
    place_share : Series
        From `share_places`.
    reasons : mapping
        Region -> why figures are missing; added to.
    level : float
        Of the interval.

    Notes
    -----
    Of a polygon with units the synthetic estimate is `unseen_synthetic`. A polygon's effect is the mean over its
    places, and what each of them differs by from the map adds mean square x place_share (the nested-error model of
    Battese, Harter and Fuller 1988; ASSUMED: places differ independently, beyond what the polygon has in common).
    """
    unseen = unseen_synthetic(table, error, tau_hat, owner, weights)
    usable = table["pooled_std_err"].gt(0).to_numpy() & np.isfinite(unseen)
    rows = table["synthetic"].notna().to_numpy()
    try:
        found = extrapolation.composite_estimates(
            np.where(usable, table["direct"], np.nan)[rows],
            table["pooled_std_err"].to_numpy()[rows],
            np.where(usable, unseen, table["synthetic"])[rows],
            own_variance=error.mean_square * place_share.reindex(table["region"]).to_numpy()[rows],
            level=level,
        )
    except EvaluationError as failure:
        for name in table["region"]:
            reasons[name].append(f"no composite: {failure}")
        return
    figures = np.column_stack([found.estimate, found.std_err, found.low, found.high])
    table.loc[rows, ["composite", "composite_std_err", "composite_low", "composite_high"]] = figures
    for name in table.loc[~rows, "region"]:
        reasons[name].append("no composite: no synthetic estimate")


def unseen_synthetic(
    table: pd.DataFrame, error: MapError, tau_hat: FloatArray, owner: pd.Series, weights: FloatArray
) -> FloatArray:
    """Synthetic estimates by a map that has not seen the polygon's units; NaN for polygons without units.

    What leaving the polygon out changes at its units, mean (left out - out of group), is added to the map's estimate.
    Effects out of group rest on the polygon's other units as those of its cells do, so the luck of its units leaves the
    estimate, and no cell is predicted twice. Arguments as in `add_composite`.
    """
    left_out = np.full(len(tau_hat), np.nan) if error.left_out is None else error.left_out
    move = _mean_by(owner, left_out - tau_hat, weights)
    return np.asarray(table["synthetic"].to_numpy() + move.reindex(table["region"]).to_numpy())


def share_places(region: RegionCells, inside: BoolArray, people: FloatArray | None, chip_m: float) -> pd.Series:
    """By polygon: sum of squared weights of its places over their squared sum; 1 / their number without people.

    A place is what lies inside of a square tile with the side of the largest chip, ``chip_m`` metres (0: a cell): cells
    that show the same pixels go astray together, however fine they are.
    """
    a, e = abs(region.grid.transform[0]), abs(region.grid.transform[4])
    cells = pd.DataFrame(
        {
            "region": region.cells["region"].to_numpy().astype(str),
            "row": np.floor(region.cells["row"].to_numpy() / max(1.0, chip_m / e)),
            "col": np.floor(region.cells["col"].to_numpy() / max(1.0, chip_m / a)),
            "weight": np.where(inside, 1.0 if people is None else people, 0.0),
        }
    )
    weight = cells.groupby(["region", "row", "col"])["weight"].sum()
    return (weight**2).groupby("region").sum() / weight.groupby("region").sum() ** 2


def _mean_by(owner: pd.Series, values: FloatArray, weights: FloatArray) -> pd.Series:
    """Weighted mean over the units of each region with a value."""
    known = owner.notna().to_numpy() & np.isfinite(values)
    names = owner[known].astype(str).to_numpy()
    sums = pd.DataFrame({"sum": (weights * values)[known], "weight": weights[known]}).groupby(names).sum()
    return sums["sum"] / sums["weight"]
