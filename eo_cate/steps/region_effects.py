"""Effects of the polygons of a region: direct, synthetic, composite and transported, and why where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from scipy import stats

from eo_cate import evaluation, extrapolation
from eo_cate.errors import EvaluationError
from eo_cate.extrapolation import DirectEstimates, Membership, RegionCells, TrainingSpace, TransportedEffect
from eo_cate.stats.folds import group_folds
from eo_cate.steps.context import Run
from eo_cate.steps.map_model import MapModel
from eo_cate.steps.region_cells import CellValues
from eo_cate.steps.region_composite import MapError, add_composite, share_places
from eo_cate.types import BoolArray, FloatArray, IntArray, Trial

MEMBERSHIP_CELLS = 20_000
"""Cells of a region that its membership model is fitted on: more say nothing new, their number is one of resolution."""
NUM_FOLDS = 5
YES, OUTSIDE, NO_IMAGERY, UNDECIDED = 0, 1, 2, 3
CODES = {
    YES: "yes",
    OUTSIDE: "outside the area of applicability",
    NO_IMAGERY: "no imagery",
    UNDECIDED: "sign undecided",
}
COLUMNS = (
    "region", "cells", "share_imagery", "share_supported", "share_sign_decided", "population", "units", "groups",
    "direct", "direct_std_err", "direct_low", "direct_high", "synthetic", "composite", "composite_std_err",
    "composite_low", "composite_high", "transported", "transported_std_err", "transported_low", "transported_high",
    "effective_groups", "reason",
)  # fmt: skip
LEVEL = 0.95
"""Of the intervals of polygons, all with Student's t: their errors rest on few groups, or few polygons."""


@dataclass(frozen=True)
class TrialSide:
    """What the trial's n units bring: DR scores, effects out of group, DI of their sites, and their predictors."""

    dr_scores: FloatArray
    tau_hat: FloatArray
    space: TrainingSpace
    dissimilarity: FloatArray
    groups: IntArray
    weights: FloatArray
    moderators: FloatArray
    names: list[str]
    site_index: IntArray

    @property
    def known(self) -> BoolArray:
        """Units with an effect out of group."""
        return np.isfinite(self.tau_hat)


def describe_trial(run: Run, trial: Trial, model: MapModel) -> TrialSide:
    """Scores, effects out of group and the predictors' space, with folds by group."""
    v, outcome = model.vectors, model.outcome
    reduced = model.reduce(model.X)
    _, first = np.unique(trial.site_index, return_index=True)
    folds = group_folds(v.groups, W=v.W, strata=v.strata, num_folds=NUM_FOLDS, seed=run.config.seed)
    space = extrapolation.describe_training(reduced[first], weights=model.place_weights, folds=folds[first])
    columns, names = model.moderators
    return TrialSide(
        dr_scores=evaluation.doubly_robust_scores(
            v.Y, v.W, propensity=v.propensity, Y_hat=outcome.m_hat, tau_hat=np.full(len(v.Y), outcome.ATE_hat)
        ),
        tau_hat=model.tau_hat,
        space=space,
        dissimilarity=space.dissimilarity[trial.site_index],
        groups=v.groups,
        weights=v.weights,
        moderators=reduced[:, columns],
        names=names,
        site_index=trial.site_index,
    )


def code_support(values: CellValues, band: FloatArray, threshold: float) -> FloatArray:
    """`CODES` of every cell; without a band no sign is decided."""
    decided = np.abs(values.tau_hat) > band  # False where the band is NaN
    code = np.where(decided, YES, UNDECIDED)
    code = np.where(values.dissimilarity <= threshold, code, OUTSIDE)
    return np.where(np.isfinite(values.tau_hat), code, NO_IMAGERY).astype(np.float64)


def fit_odds(
    run: Run, side: TrialSide, region: RegionCells, values: CellValues, cells: IntArray, people: FloatArray | None
) -> tuple[Membership, IntArray]:
    """Membership model of the trial against these cells (a sample of them when there are many), and the cells used.

    Raises
    ------
    EvaluationError
        When the cells lie in fewer than five spatial blocks, or a moderator does not vary.
    """
    if len(cells) > MEMBERSHIP_CELLS:
        cells = np.sort(np.random.default_rng(run.config.seed).choice(cells, MEMBERSHIP_CELLS, replace=False))
    if len(cells) < 2 * NUM_FOLDS:
        raise EvaluationError(f"{len(cells)} supported cells are too few for a model of who is in the trial")
    used = side.known
    blocks = extrapolation.tile_blocks(region.cells.iloc[cells])
    membership = extrapolation.fit_membership(
        side.moderators[used],
        values.moderators[cells].astype(np.float64),
        groups=side.groups[used],
        blocks=blocks,
        moderators=side.names,
        sample_weights=side.weights[used],
        region_weights=None if people is None else people[cells],
        num_folds=NUM_FOLDS,
        seed=run.config.seed,
    )
    return membership, cells


def transport(
    run: Run, side: TrialSide, values: CellValues, membership: Membership, cells: IntArray
) -> TransportedEffect:
    """Average effect of these cells; EvaluationError when the trial is worth too few groups there."""
    used = side.known
    return extrapolation.transported_effect(
        side.dr_scores[used],
        side.tau_hat[used],
        values.tau_hat[cells],
        membership=membership,
        seed=run.config.seed,
    )


def tabulate_regions(
    run: Run,
    trial: Trial,
    side: TrialSide,
    polygons: gpd.GeoDataFrame,
    region: RegionCells,
    values: CellValues,
    support: FloatArray,
    people: FloatArray | None,
    error: MapError,
    *,
    min_units: int,
    chip_m: float,
) -> pd.DataFrame:
    """One row per polygon, columns `COLUMNS`, in the order of the file; what cannot be said is NaN, with a reason.

    ``chip_m`` is the side of the largest chip in metres (`share_places`).
    """
    table = _count_cells(polygons, region, support, people)
    reasons: dict[str, list[str]] = {name: [] for name in table["region"]}
    owner = find_regions(trial, polygons)
    _add_direct(table, side, owner, reasons, min_units)
    inside = np.isin(support, (YES, UNDECIDED))
    _add_synthetic(table, region, values, inside, people, reasons)
    place_share = share_places(region, inside, people, chip_m)
    add_composite(table, error, side.tau_hat, owner, side.weights, place_share, reasons, level=LEVEL)
    _add_transported(run, table, side, region, values, inside, people, reasons)
    table["reason"] = ["; ".join(reasons[name]) for name in table["region"]]
    return table[list(COLUMNS)]


def _count_cells(
    polygons: gpd.GeoDataFrame, region: RegionCells, support: FloatArray, people: FloatArray | None
) -> pd.DataFrame:
    owner = region.cells["region"].to_numpy()
    cells = pd.DataFrame(
        {
            "region": owner,
            "cells": 1,
            "share_imagery": support != NO_IMAGERY,
            "share_supported": np.isin(support, (YES, UNDECIDED)),
            "share_sign_decided": support == YES,
            "population": np.nan if people is None else people,
        }
    )
    how = {"cells": "sum", "population": "sum" if people is not None else "mean"}
    shares = ("share_imagery", "share_supported", "share_sign_decided")
    found = cells.groupby("region").agg(how | dict.fromkeys(shares, "mean"))
    table = found.reindex(polygons.index.astype(str)).rename_axis("region").reset_index()
    table["cells"] = table["cells"].fillna(0).astype(np.int64)
    empty = [c for c in COLUMNS[:-1] if c not in table]
    return table.assign(**dict.fromkeys(empty, np.nan))


def find_regions(trial: Trial, polygons: gpd.GeoDataFrame) -> pd.Series[Any]:
    """The polygon that each unit's site lies in (the first of several), NaN outside all."""
    return extrapolation.find_polygons(trial.sites, polygons).iloc[trial.site_index]


def _add_direct(
    table: pd.DataFrame,
    side: TrialSide,
    owner: pd.Series[Any],
    reasons: Mapping[str, list[str]],
    min_units: int,
) -> None:
    """The estimates with their own errors, and ``pooled_std_err``, which the composite weighs them by."""
    table["pooled_std_err"] = np.nan
    here = owner.notna().to_numpy()
    known: set[str] = set()
    if here.any():
        found = extrapolation.direct_estimates(
            side.dr_scores[here],
            owner[here].astype(str).to_numpy(),
            groups=side.groups[here],
            sample_weights=side.weights[here],
            min_units=min_units,
        )
        own = pd.DataFrame(
            {
                "direct": found.estimate, "direct_std_err": found.std_err, "pooled_std_err": _pool(found),
                "units": found.num_units.astype(float),
                "groups": found.num_groups.astype(float),
            },
            index=found.regions.astype(str),
        )[~found.suppressed]  # fmt: skip
        known = set(own.index)
        for column in own:
            table[column] = own[column].reindex(table["region"]).to_numpy()
        _add_interval(table, "direct", table["groups"].to_numpy(dtype=float) - 1)
    for name in table["region"]:
        if name not in known:
            reasons[name].append(f"no direct estimate: fewer than {min_units} trial units")


def _add_synthetic(
    table: pd.DataFrame,
    region: RegionCells,
    values: CellValues,
    inside: BoolArray,
    people: FloatArray | None,
    reasons: Mapping[str, list[str]],
) -> None:
    effects = np.where(inside, values.tau_hat, np.nan)
    found = extrapolation.synthetic_estimates(effects, region.cells["region"].to_numpy().astype(str), weights=people)
    own = pd.Series(found.estimate, index=found.regions)
    table["synthetic"] = own.reindex(table["region"]).to_numpy()
    for name in table.loc[table["synthetic"].isna(), "region"]:
        reasons[name].append("no synthetic estimate: no supported cell" + ("" if people is None else " with people"))


def _pool(found: DirectEstimates) -> FloatArray:
    """NaN where there is nothing to pool: a composite then says that it has no direct estimates."""
    try:
        return extrapolation.pool_errors(found)
    except EvaluationError:
        return np.full(len(found.regions), np.nan)


def _add_interval(table: pd.DataFrame, name: str, degrees: FloatArray) -> None:
    reach = stats.t.ppf((1 + LEVEL) / 2, degrees) * table[f"{name}_std_err"].to_numpy(dtype=float)
    estimate = table[name].to_numpy(dtype=float)
    table[f"{name}_low"], table[f"{name}_high"] = estimate - reach, estimate + reach


def _add_transported(
    run: Run,
    table: pd.DataFrame,
    side: TrialSide,
    region: RegionCells,
    values: CellValues,
    inside: BoolArray,
    people: FloatArray | None,
    reasons: Mapping[str, list[str]],
) -> None:
    owner = region.cells["region"].to_numpy().astype(str)
    for row, name in enumerate(table["region"]):
        cells = np.flatnonzero(inside & (owner == name))
        try:
            membership, used = fit_odds(run, side, region, values, cells, people)
            table.loc[row, "effective_groups"] = membership.effective_groups
            found = transport(run, side, values, membership, used)
        except EvaluationError as error:
            reasons[name].append(f"not transported: {error}")
            continue
        figures: Sequence[float] = (found.estimate, found.std_err, *found.interval)
        table.loc[row, ["transported", "transported_std_err", "transported_low", "transported_high"]] = figures
