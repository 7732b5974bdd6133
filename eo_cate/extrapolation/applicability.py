"""Area of applicability: where a place is too unlike the trial's sites for the map to speak (METHODS.md, section 9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import finite_array, group_codes
from eo_cate.types import BoolArray, FloatArray, IntArray

_BLOCK = 500_000
"""Distances held at a time (4 MB): they stay in the processor's cache."""


@dataclass(frozen=True)
class TrainingSpace:
    """The trial's sites as new places are compared with them.

    Parameters
    ----------
    points : (S, p) float64
        Training rows, scaled and weighted; the p predictors with weight only.
    center, scale : (p,) float64
        A new row becomes ``(row[columns] - center) * scale``.
    columns : (p,) int64
        Predictors with weight, of ``num_predictors``.
    num_predictors : int
    mean_distance : float
        Mean distance between two training rows.
    threshold : float
        Largest supported dissimilarity.
    dissimilarity, local_point_density : (S,) float64
        Of the training rows to those of other folds.
    """

    points: FloatArray
    center: FloatArray
    scale: FloatArray
    columns: IntArray
    num_predictors: int
    mean_distance: float
    threshold: float
    dissimilarity: FloatArray
    local_point_density: FloatArray


@dataclass(frozen=True)
class Applicability:
    """How far new places are from the trial's sites, in mean distances between those sites.

    Parameters
    ----------
    dissimilarity : (n,) float64
        DI: distance to the nearest training row over their mean distance; NaN where a predictor is not finite.
    supported : (n,) bool
        DI at most ``threshold``.
    local_point_density : (n,) float64
        Training rows nearer than ``threshold``; NaN where a predictor is not finite.
    threshold : float
    train_dissimilarity, train_local_point_density : (S,) float64
        The same of the training rows, to rows of other folds.
    train_mean_distance : float
        Mean distance between two training rows, in weighted standard deviations.
    """

    dissimilarity: FloatArray
    supported: BoolArray
    local_point_density: FloatArray
    threshold: float
    train_dissimilarity: FloatArray
    train_local_point_density: FloatArray
    train_mean_distance: float


def area_of_applicability(
    train: ArrayLike, new: ArrayLike, *, weights: ArrayLike | None = None, folds: ArrayLike | None = None
) -> Applicability:
    """Dissimilarity of new places to the trial's sites, and where it is small enough for a prediction to be supported.

    Parameters
    ----------
    train : (S, p)
        Predictors of the training SITES (not of the units: a site of many units would count many times).
    new : (n, p)
        The same predictors of new places. A row with a value that is not finite is not supported.
    weights : (p,), optional
        Importance of each predictor, zero or positive; 1 when absent. A predictor of weight 0 is not looked at.
    folds : (S,) labels, optional
        Folds by group, each left out once. Absent, a training row is compared with all others.

    Returns
    -------
    Applicability

    Raises
    ------
    EvaluationError
        On training values that are not finite, predictors that differ in number or are constant over the training
        rows, bad weights, a single fold, or training rows that are all alike.

    Notes
    -----
    Meyer and Pebesma (2021), as R CAST's aoa() computes it. Predictors are scaled by the training mean and standard
    deviation (n - 1) and multiplied by their weights. The threshold is the largest training DI that is no outlier:
    min(Q75 + 1.5 IQR, max). Time grows with n S p, memory is that of the inputs and results.
    """
    return compare_places(describe_training(train, weights=weights, folds=folds), new)


def describe_training(
    train: ArrayLike, *, weights: ArrayLike | None = None, folds: ArrayLike | None = None
) -> TrainingSpace:
    """The half of `area_of_applicability` that needs no new places; parameters and errors as there.

    With it a region is compared shard by shard (`compare_places`).
    """
    rows = finite_array("train", train)
    if rows.ndim != 2 or len(rows) < 2:
        raise EvaluationError(f"`train` has shape {rows.shape}: give at least 2 sites in rows, predictors in columns")
    chosen, kept = _kept_weights(weights, rows.shape[1])
    codes = None if folds is None else _fold_codes(folds, len(rows))
    center, spread = rows[:, kept].mean(axis=0), rows[:, kept].std(axis=0, ddof=1)
    constant = kept[spread <= 1e-14 * np.abs(center)]
    if len(constant):
        raise EvaluationError(
            f"{len(constant)} of {rows.shape[1]} predictors are constant over the {len(rows)} training sites (columns "
            f"{constant[:8].tolist()}): no distance can be measured along them; drop them or give them weight 0"
        )
    scale = chosen[kept] / spread
    points = np.ascontiguousarray((rows[:, kept] - center) * scale)
    mean_distance, nearest = _train_distances(points, codes)
    dissimilarity = nearest / mean_distance
    lower, upper = np.quantile(dissimilarity, [0.25, 0.75])
    threshold = float(min(upper + 1.5 * (upper - lower), dissimilarity.max()))
    density = _train_density(points, codes, mean_distance, threshold)
    return TrainingSpace(
        points, center, scale, kept, rows.shape[1], mean_distance, threshold, dissimilarity, density
    )  # fmt: skip


def compare_places(space: TrainingSpace, new: ArrayLike) -> Applicability:
    """Compare new places (n, p) with the training rows; `area_of_applicability` says what comes back.

    Raises
    ------
    EvaluationError
        When the number of predictors differs from the training rows'.
    """
    rows: NDArray[Any] = np.asarray(new)
    if rows.ndim != 2 or rows.shape[1] != space.num_predictors:
        raise EvaluationError(
            f"`new` has shape {rows.shape}, but the training sites have {space.num_predictors} predictors: give the "
            "same predictors, in the same order"
        )
    nearest, density = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    augmented = _augmented(space.points)
    step = max(1, _BLOCK // len(space.points))
    for start in range(0, len(rows), step):
        block = (rows[start : start + step, space.columns].astype(np.float64) - space.center) * space.scale
        here = np.flatnonzero(np.isfinite(block).all(axis=1))
        nearest[start + here], density[start + here] = _nearest_and_density(block[here], space, augmented)
    dissimilarity = nearest / space.mean_distance
    return Applicability(
        dissimilarity=dissimilarity,
        supported=np.asarray(dissimilarity <= space.threshold),
        local_point_density=density,
        threshold=space.threshold,
        train_dissimilarity=space.dissimilarity,
        train_local_point_density=space.local_point_density,
        train_mean_distance=space.mean_distance,
    )


def _kept_weights(weights: ArrayLike | None, num_predictors: int) -> tuple[FloatArray, IntArray]:
    """Weights, and the predictors that have one above zero."""
    if weights is None:
        return np.ones(num_predictors), np.arange(num_predictors)
    chosen = np.asarray(weights, dtype=np.float64)
    if chosen.shape != (num_predictors,):
        raise EvaluationError(
            f"`weights` has shape {chosen.shape}, but there are {num_predictors} predictors: one weight per predictor"
        )
    bad = int((~np.isfinite(chosen) | (chosen < 0)).sum())
    if bad or not chosen.any():
        found = f"{bad} negative, NaN or infinite values" if bad else "only zeros"
        raise EvaluationError(f"`weights` has {found}: give each predictor its importance, zero or positive")
    return chosen, np.flatnonzero(chosen)


def _fold_codes(folds: ArrayLike, length: int) -> IntArray:
    labels: NDArray[Any] = np.asarray(folds)
    if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)):
        labels = labels.astype(np.int64)  # a table's column of whole numbers
    codes, num_folds = group_codes(labels, length, name="folds")
    if num_folds < 2:
        raise EvaluationError(f"`folds` has 1 fold for {length} training sites: give at least 2, or leave it out")
    return codes


def _blocks(points: FloatArray, codes: IntArray | None) -> Iterator[tuple[int, FloatArray, BoolArray]]:
    """Blocks of rows: their start, distances to all rows, and which of those are of the same fold (or the same row)."""
    step = max(1, _BLOCK // len(points))
    labels = np.arange(len(points)) if codes is None else codes
    for start in range(0, len(points), step):
        distances = cdist(points[start : start + step], points)
        yield start, distances, labels[start : start + step, None] == labels


def _train_distances(points: FloatArray, codes: IntArray | None) -> tuple[float, FloatArray]:
    """Mean distance between two rows, and the distance from each to the nearest of another fold."""
    total, nearest = np.empty(len(points)), np.empty(len(points))
    for start, distances, same in _blocks(points, codes):
        rows = slice(start, start + len(distances))
        total[rows] = distances.sum(axis=1)
        distances[same] = np.inf
        nearest[rows] = distances.min(axis=1)
    mean_distance = float(np.mean(total / (len(points) - 1)))
    if not mean_distance > 0:
        raise EvaluationError(f"all {len(points)} training sites have the same predictors: no distance can be measured")
    return mean_distance, nearest


def _train_density(points: FloatArray, codes: IntArray | None, mean_distance: float, threshold: float) -> FloatArray:
    density = np.empty(len(points))
    for start, distances, same in _blocks(points, codes):
        near = (distances / mean_distance < threshold) & ~same
        density[start : start + len(near)] = near.sum(axis=1)
    return density


def _augmented(points: FloatArray) -> FloatArray:
    """(p + 1, S): one product of (row, 1) with it is |point|^2 - 2 row'point."""
    return np.vstack([-2 * points.T, (points * points).sum(axis=1)])


def _nearest_and_density(
    block: FloatArray, space: TrainingSpace, augmented: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Distance to the nearest training row, and how many are nearer than the threshold, for finite rows (b, p)."""
    points, reach = space.points, space.threshold * space.mean_distance
    lengths = (block * block).sum(axis=1)
    less_length = np.column_stack([block, np.ones(len(block))]) @ augmented  # squared distance - the row's length
    # Rounding of any sum of p + 1 products (Higham 2002, section 3.1), doubled. What it could change is computed again.
    slack = 4 * (len(augmented) + 4) * np.finfo(np.float64).eps * (lengths + augmented[-1].max())
    best = less_length.argmin(axis=1)
    edge = reach**2 - lengths
    density = _count(less_length < (edge + slack)[:, None])
    certain = _count(less_length < (edge - slack)[:, None])
    closest = less_length[np.arange(len(block)), best] + 2 * slack
    rivals = _count(less_length <= closest[:, None])
    nearest = np.sqrt(((block - points[best]) ** 2).sum(axis=1))
    doubtful = np.flatnonzero((density != certain) | (rivals > 1))
    if len(doubtful):
        distances = cdist(block[doubtful], points)
        nearest[doubtful] = distances.min(axis=1)
        density[doubtful] = (distances / space.mean_distance < space.threshold).sum(axis=1)
    return nearest, density.astype(np.float64)


def _count(mask: BoolArray) -> IntArray:
    """True values per row; over the bytes, five times as fast as numpy's count of booleans."""
    return np.asarray(mask.view(np.int8).sum(axis=1, dtype=np.int32), dtype=np.int64)
