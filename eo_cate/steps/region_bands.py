"""Bands around the map's effects, from groups and districts that the forest had not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate import extrapolation
from eo_cate.errors import EoCateError, EvaluationError
from eo_cate.extrapolation import Bands, EffectError
from eo_cate.shards import compute_stored
from eo_cate.steps.context import Run
from eo_cate.steps.map_model import MapModel
from eo_cate.steps.region_composite import MapError
from eo_cate.steps.region_effects import TrialSide, find_regions
from eo_cate.store import Store
from eo_cate.types import BoolArray, FloatArray, IntArray, Trial

MAX_FITS = 10
"""Districts are left out one by one, or in this many sets when there are more."""
NOWHERE = -1
_VERSION = 1


@dataclass(frozen=True)
class FittedBands:
    """Bands, or None and why; ``notes`` say in words what they rest on; ``error`` is what polygons' effects need."""

    bands: Bands | None
    reason: str
    notes: tuple[str, ...]
    error: MapError


@dataclass(frozen=True)
class _LeftOut:
    model: MapModel
    left: IntArray
    kept: IntArray


def fit_bands(run: Run, trial: Trial, model: MapModel, side: TrialSide, polygons: gpd.GeoDataFrame) -> FittedBands:
    """Calibrated 90 % bands, widened where effects of districts that were left out are further off."""
    owner, names = pd.factorize(find_regions(trial, polygons))  # NOWHERE outside all polygons
    sets = np.where(owner == NOWHERE, NOWHERE, owner % MAX_FITS).astype(np.int64)
    left_out, trouble = _try_left_out(run, model, sets, len(names))
    noise, why = _effect_error(model, side, side.tau_hat, side.dissimilarity, side.known)
    error = MapError(left_out, noise.mean_square if noise is not None and np.isfinite(noise.mean_square) else 0.0)
    try:
        bands = _calibrate(side, side.tau_hat, side.dissimilarity, side.known, noise)
    except EvaluationError as failure:
        return FittedBands(None, str(failure), (), error)
    notes = [f"The variances of the arms were not compared for it: {why}."] if why else []
    if left_out is None:
        return FittedBands(bands, "", (*notes, trouble), error)
    try:
        bands = extrapolation.widen_bands(bands, _band_of_polygons(trial, model, side, sets, left_out))
    except EoCateError as failure:
        return FittedBands(bands, "", (*notes, f"Leaving polygons out gave no band: {failure}."), error)
    how = "each in turn" if len(names) <= MAX_FITS else f"in {MAX_FITS} sets"
    about = f"The {len(names)} polygons with units of the trial were left out too, {how}; the wider band is used."
    return FittedBands(bands, "", (*notes, about), error)


def _try_left_out(run: Run, model: MapModel, sets: IntArray, num_polygons: int) -> tuple[FloatArray | None, str]:
    """`predict_left_out`, or None and why there is nothing."""
    if num_polygons < 2:
        return None, f"The trial lies in {num_polygons} of the region's polygons, so none could be left out."
    try:
        return predict_left_out(run, model, sets), ""
    except EoCateError as failure:
        return None, f"Leaving polygons out gave no band: {failure}."


def _band_of_polygons(trial: Trial, model: MapModel, side: TrialSide, sets: IntArray, left_out: FloatArray) -> Bands:
    places, used = _dissimilarity(model, trial, sets), sets != NOWHERE
    noise, _ = _effect_error(model, side, left_out, places, used)
    return _calibrate(side, left_out, places, used, noise)


def predict_left_out(run: Run, model: MapModel, sets: IntArray) -> FloatArray:
    """Effects of units in set k (n,) by a forest that saw no group with a unit in it; NaN for those `NOWHERE`."""
    groups = model.vectors.groups
    parts = [np.flatnonzero(sets == k) for k in np.unique(sets[sets != NOWHERE])]
    shards = [_LeftOut(model, left, np.flatnonzero(~np.isin(groups, groups[left]))) for left in parts]
    keys = [Store.key("districts", _VERSION, model.address, shard.left, shard.kept) for shard in shards]
    found = compute_stored(_predict, shards, keys, "districts", description="polygons left out", **run.shards)
    tau_hat = np.full(len(sets), np.nan)
    for left, one in zip(parts, found, strict=True):
        tau_hat[left] = one["tau_hat"]
    return tau_hat


def _predict(shard: _LeftOut) -> dict[str, NDArray[Any]]:
    arm = shard.model.vectors.W[shard.kept]
    if arm.min(initial=1) == arm.max(initial=0):
        raise EvaluationError(f"without the {len(shard.left)} units of a polygon, one arm is empty")
    fitted = shard.model.fit_on(shard.kept)
    return {"tau_hat": np.asarray(fitted.predict(shard.model.X.take(shard.left)), dtype=np.float64)}


def _dissimilarity(model: MapModel, trial: Trial, sets: IntArray) -> FloatArray:
    """DI of each unit's site to the sites of other sets."""
    _, first = np.unique(trial.site_index, return_index=True)
    reduced = model.reduce(model.X.take(first))
    space = extrapolation.describe_training(reduced, weights=model.place_weights, folds=sets[first])
    return space.dissimilarity[trial.site_index]


def _calibrate(
    side: TrialSide, tau_hat: FloatArray, places: FloatArray, used: BoolArray, noise: EffectError | None
) -> Bands:
    return extrapolation.calibrate_bands(
        side.dr_scores[used],
        tau_hat[used],
        places[used],
        groups=side.groups[used],
        threshold=side.space.threshold,
        sample_weights=side.weights[used],
        noise="within",
        effect_error=noise,
    )


def _effect_error(
    model: MapModel, side: TrialSide, tau_hat: FloatArray, places: FloatArray, used: BoolArray
) -> tuple[EffectError | None, str]:
    """What untreated groups tell of the luck of groups; None and why where they do not, and then it stays in."""
    v, rows = model.vectors, used & (places <= side.space.threshold)
    try:
        found = extrapolation.effect_error(
            v.Y[rows],
            v.W[rows],
            tau_hat[rows],
            side.dr_scores[rows],
            propensity=v.propensity[rows],
            groups=v.groups[rows],
            sample_weights=v.weights[rows],
        )
    except EvaluationError as error:
        return None, str(error)
    return found, ""
