"""What drives it? Observables by quartile of out-of-group tau_hat, effects by image quantity, curves, and a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate import evaluation
from eo_cate.errors import EvaluationError
from eo_cate.report import DriversShown, Gallery
from eo_cate.report.drivers_inputs import BIN_COLUMNS, CURVE_COLUMNS, DRIVER_COLUMNS, NUM_QUARTILES
from eo_cate.report.rows import estimator_name
from eo_cate.shards import Arrays, compute_stored
from eo_cate.steps.context import FULL, Run, derive_seed
from eo_cate.steps.evaluate import Evaluated
from eo_cate.steps.inputs import Inputs
from eo_cate.steps.map_model import MapModel
from eo_cate.steps.observables import Observable, holds_embeddings, named_bands, observe, side_words
from eo_cate.steps.quality import OutOfGroup, gather_out_of_group
from eo_cate.store import Store
from eo_cate.types import FeatureBlocks, FloatArray, IntArray

VERSION = 1
NUM_CURVES, NUM_VALUES, NUM_UNITS, NUM_LINES = 4, 20, 500, 40
FEW_VALUES = 10
"""A covariate with no more distinct values than this has a curve through each of them."""
GALLERY_SITES = 6
STRETCH_PERCENT = (2.0, 98.0)


def find_drivers(
    run: Run, inputs: Inputs, features: Mapping[str, FeatureBlocks], evaluated: Evaluated
) -> DriversShown | None:
    """What goes with the ranking of the pre-specified configuration; None where nothing was ranked out of group."""
    if not evaluated.ranked:
        return None
    with run.timed("drivers"):
        seen = {
            estimator: gather_out_of_group(evaluated.folds, [found.priorities.values for found in ranked[FULL]])
            for estimator, ranked in evaluated.ranked.items()
        }
        observables, notes = observe(run, inputs)
        table, unranked = _compare(observables, evaluated, seen)
        effects, unbinned = _bin_effects(run, observables, evaluated, next(iter(seen.values())))
        curves, ice = _trace_curves(
            run, MapModel(run, inputs.trial, features, evaluated.outcome, configuration=FULL), inputs.trial.covariates
        )
        shown = run.config.report.gallery and not holds_embeddings(run)
        return DriversShown(
            table=table,
            effects=effects,
            curves=curves,
            ice=ice,
            configuration=FULL,
            gallery=_fill_gallery(run, inputs, evaluated, seen) if shown else None,
            notes=(*notes, *unranked, *unbinned),
        )


def _compare(
    observables: list[Observable], evaluated: Evaluated, seen: Mapping[str, OutOfGroup]
) -> tuple[pd.DataFrame, list[str]]:
    """Means by quartile of tau_hat, p adjusted over all rows; estimators whose quartiles cannot be formed."""
    rows, notes = list[dict[str, Any]](), list[str]()
    for estimator, one in seen.items():
        values = pd.DataFrame({j: each.values[one.rows] for j, each in enumerate(observables)})
        try:
            found = evaluation.compare_observables(
                values, one.tau_hat, num_groups=NUM_QUARTILES, folds=one.fold, **_design(evaluated, one.rows)
            )
        except EvaluationError as error:
            notes.append(f"{estimator_name(estimator)} has no quartiles: {error}.")
            continue
        figures = zip(
            found.difference, found.std_err, *found.interval.T, found.std_dev, found.p, found.missing, strict=True
        )
        for each, means, (*numbers, p, missing) in zip(observables, found.means, figures, strict=True):
            head = (estimator, each.kind, each.name, each.scale, each.label)
            rows.append(dict(zip(DRIVER_COLUMNS, (*head, *means, *numbers, p, np.nan, missing), strict=True)))
    table = pd.DataFrame(rows, columns=list(DRIVER_COLUMNS))
    return table.assign(adjusted_p=evaluation.adjust_p(table["p"].to_numpy(np.float64))), notes


def _design(evaluated: Evaluated, rows: IntArray) -> dict[str, Any]:
    """Groups and weights of some units, as keyword arguments."""
    vectors = evaluated.folds.vectors
    return {"groups": vectors.groups[rows], "sample_weights": vectors.weights[rows]}


def _bin_effects(
    run: Run, observables: list[Observable], evaluated: Evaluated, seen: OutOfGroup
) -> tuple[pd.DataFrame, list[str]]:
    """Mean DR score by quartile of each image quantity; quantities whose quartiles cannot be formed."""
    rows, left_out = list[dict[str, Any]](), list[str]()
    for each in observables:
        if each.kind == "covariate":
            continue
        values = each.values[seen.rows]
        known = np.isfinite(values)
        try:
            found = evaluation.gates(
                seen.dr_scores[known],
                values[known],
                num_groups=NUM_QUARTILES,
                seed=run.config.seed,
                **_design(evaluated, seen.rows[known]),
            )
        except EvaluationError:
            left_out.append(each.label)
            continue
        for k in range(NUM_QUARTILES):
            figures = (
                found.mean_tau_hat[k], int(found.num_units[k]), int(found.num_groups[k]), found.estimate[k],
                found.std_err[k], *found.interval[k],
            )  # fmt: skip
            rows.append(dict(zip(BIN_COLUMNS, (each.name, each.scale, each.label, k + 1, *figures), strict=True)))
    notes = [
        f"Without effects by quartile, because too many places share a value: {'; '.join(left_out)}."
        for _ in left_out[:1]
    ]
    return pd.DataFrame(rows, columns=list(BIN_COLUMNS)), notes


@dataclass(frozen=True)
class _CurveShard:
    model: MapModel
    covariates: tuple[str, ...]
    seed: int


def _trace_curves(run: Run, model: MapModel, covariates: tuple[str, ...]) -> tuple[pd.DataFrame, dict[str, FloatArray]]:
    """Partial dependence of the map's model on the covariates that matter most, and some units' own curves."""
    if not covariates:
        return pd.DataFrame(columns=list(CURVE_COLUMNS)), {}
    shard = _CurveShard(model, covariates, derive_seed(run.config.seed, "curves"))
    sizes = [NUM_CURVES, NUM_VALUES, NUM_UNITS, FEW_VALUES]
    key = Store.key("curves", VERSION, *model.address, list(covariates), shard.seed, sizes)
    stored = compute_stored(_compute_curves, [shard], [key], "curves", description="curves", **run.here)[0]
    rows, ice = list[pd.DataFrame](), dict[str, FloatArray]()
    for k, name in enumerate(stored["names"].tolist()):
        effects = stored[f"effects_{k}"]
        low, high = np.quantile(effects, [0.1, 0.9], axis=0)
        rows.append(
            pd.DataFrame(
                {
                    "covariate": name,
                    "importance": float(stored["importance"][k]),
                    "value": stored[f"values_{k}"],
                    "estimate": np.average(effects, axis=0, weights=stored["weights"]),
                    "low": low,
                    "high": high,
                }
            )
        )
        ice[name] = effects[:NUM_LINES]
    return pd.concat(rows, ignore_index=True)[list(CURVE_COLUMNS)], ice


def _compute_curves(shard: _CurveShard) -> Arrays:
    """tau_hat of drawn units with one covariate set to each of its values.

    scikit-learn's `partial_dependence` takes no missing values and no features that several rows share.
    """
    model, X = shard.model, shard.model.X
    importance = _rank_covariates(model, shard.covariates)
    rng = np.random.default_rng(shard.seed)
    weighted = np.flatnonzero(model.vectors.weights > 0)
    rows = rng.choice(weighted, min(NUM_UNITS, len(weighted)), replace=False)
    drawn = X.take(rows)
    found: dict[str, Any] = {
        "names": np.array(list(importance)),
        "importance": np.array(list(importance.values())),
        "weights": model.vectors.weights[rows],
    }
    for k, name in enumerate(importance):
        column = X.names.index(name, X.site.shape[1]) - X.site.shape[1]
        values = choose_values(X.unit[:, column].astype(np.float64))
        found[f"values_{k}"] = values
        found[f"effects_{k}"] = np.stack([_predict_at(model, drawn, column, v) for v in values], axis=1)
    return found


def _rank_covariates(model: MapModel, covariates: tuple[str, ...]) -> dict[str, float]:
    """Covariates with a known value that the trees split on most, with their share of early splits; NaN if unknown."""
    weights = model.weights
    shares = {} if weights is None else dict(zip(model.predictors, weights.tolist(), strict=True))
    width = model.X.site.shape[1]
    some = np.asarray(np.isfinite(model.X.unit).any(axis=0))
    known = {name: shares.get(name, np.nan) for name in covariates if some[model.X.names.index(name, width) - width]}
    return dict(sorted(known.items(), key=lambda pair: -np.nan_to_num(pair[1]))[:NUM_CURVES])


def _predict_at(model: MapModel, X: FeatureBlocks, column: int, value: float) -> FloatArray:
    unit = X.unit.copy()
    unit[:, column] = value
    return np.asarray(model.fitted.predict(replace(X, unit=unit)), dtype=np.float64)


def choose_values(values: FloatArray) -> FloatArray:
    """Where a curve is drawn: every value of a covariate that has few, else quantiles from 5 to 95 %."""
    known = values[np.isfinite(values)]
    distinct = np.unique(known)
    if len(distinct) <= FEW_VALUES:
        return distinct
    return np.unique(np.quantile(known, np.linspace(0.05, 0.95, NUM_VALUES)))


def _fill_gallery(run: Run, inputs: Inputs, evaluated: Evaluated, seen: Mapping[str, OutOfGroup]) -> Gallery:
    """Images at the largest scale of the sites whose units rank highest and lowest within their folds."""
    least, most = _extreme_sites(inputs, evaluated, seen)
    named, bands = named_bands(run, inputs), run.config.embeddings.bands
    if all(name in named for name in ("red", "green", "blue")):
        bands = (named["red"], named["green"], named["blue"])
    drawn = tuple(bands[:3]) if len(bands) >= 3 else tuple(bands[:1]) * 3
    reader, scales = list(inputs.readers.values())[-1], run.config.embeddings.scales
    chips = reader.read_chips([*most, *least], max(scales))
    images = stretch_images(chips[:, [reader.bands.index(band) for band in drawn]].transpose(0, 2, 3, 1))
    return Gallery(
        most=images[: len(most)],
        least=images[len(most) :],
        side=side_words(inputs, max(scales)),
        inner=tuple(size_px / max(scales) for size_px in scales[:-1]),
        drawn=", ".join(drawn) if len(set(drawn)) > 1 else drawn[0],
    )


def _extreme_sites(inputs: Inputs, evaluated: Evaluated, seen: Mapping[str, OutOfGroup]) -> tuple[list[str], list[str]]:
    """The sites of lowest and of highest mean rank within folds, over units and estimators; the extreme ones first."""
    rows = next(iter(seen.values())).rows
    weights = evaluated.folds.vectors.weights[rows]
    ranks = np.mean([evaluation.rank_shares(one.tau_hat, weights, one.fold) for one in seen.values()], axis=0)
    found = pd.DataFrame({"site": inputs.trial.site_index[rows], "rank": ranks * weights, "weight": weights})
    totals = found.groupby("site").sum()
    order = (totals["rank"] / totals["weight"]).dropna().sort_values(kind="stable").index
    number = min(GALLERY_SITES, len(order) // 2)
    sites = inputs.trial.sites.index
    return [str(sites[i]) for i in order[:number]], [str(sites[i]) for i in order[::-1][:number]]


def stretch_images(images: NDArray[np.floating[Any]]) -> FloatArray:
    """Bring (site, y, x, band) to [0, 1]: per band, the same percentiles of all images together become 0 and 1."""
    low, high = np.nanpercentile(images.reshape(-1, images.shape[-1]), STRETCH_PERCENT, axis=0)
    return np.asarray(np.clip((images - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0), dtype=np.float64)
