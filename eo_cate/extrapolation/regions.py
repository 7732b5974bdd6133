"""Effects of regions: what the trial measured there, and what the map says (METHODS.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, vector, weights_vector
from eo_cate.types import BoolArray, FloatArray, IntArray

MIN_UNITS = 10
"""Regions with fewer trial units are not published."""


@dataclass(frozen=True)
class DirectEstimates:
    """Average effects measured in each region, in the units of the outcome; K regions, sorted by label.

    Parameters
    ----------
    regions : (K,) labels
    estimate, std_err : (K,) float64
        Weighted means of DR scores and their standard errors by group. Both NaN where suppressed; the error also where
        the region holds a single group.
    num_units, num_groups : (K,) int64
        0 where suppressed: a count of few people can identify them.
    effective_groups : (K,) float64
        (sum of weights)^2 / sum of (groups' weights)^2; NaN where suppressed.
    suppressed : (K,) bool
        Fewer than ``min_units`` units.
    """

    regions: NDArray[Any]
    estimate: FloatArray
    std_err: FloatArray
    num_units: IntArray
    num_groups: IntArray
    effective_groups: FloatArray
    suppressed: BoolArray


@dataclass(frozen=True)
class SyntheticEstimates:
    """Average predicted effects of each region, in the units of the outcome; K regions, sorted by label.

    Parameters
    ----------
    regions : (K,) labels
    estimate : (K,) float64
        Weighted means of tau_hat over the cells that have one; NaN where none has.
    share_predicted, share_supported : (K,) float64
        Of the region's weight: cells with a tau_hat, and cells with one that is supported (NaN without ``supported``).
    num_cells : (K,) int64
    """

    regions: NDArray[Any]
    estimate: FloatArray
    share_predicted: FloatArray
    share_supported: FloatArray
    num_cells: IntArray


def direct_estimates(
    dr_scores: ArrayLike,
    regions: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    min_units: int = MIN_UNITS,
) -> DirectEstimates:
    """Average effect of each region from the trial's units there.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores, in the units of the outcome.
    regions : (n,) integer or string labels
    groups : (n,) labels, optional
        Clusters of the standard errors; every unit its own when absent.
    sample_weights : (n,), optional
    min_units : int
        Fewer units with weight, and the region is suppressed.

    Returns
    -------
    DirectEstimates

    Raises
    ------
    EvaluationError
        On bad vectors, or ``min_units`` below 1.

    Notes
    -----
    Variance of a mean: sum over the region's groups of (sum of weight x deviation)^2 / weight^2, times G / (G - 1).
    """
    scores = vector("dr_scores", dr_scores)
    if min_units < 1:
        raise EvaluationError(f"`min_units` is {min_units}: it must be 1 or more")
    labels, region = _regions(regions, len(scores))
    weights = weights_vector(sample_weights, len(scores))
    codes, _ = group_codes(groups, len(scores))
    K = len(labels)
    present = weights > 0
    num_units = np.bincount(region[present], minlength=K)
    total = np.bincount(region, weights=weights, minlength=K)
    estimate = _divide(np.bincount(region, weights=weights * scores, minlength=K), total)

    pairs, pair = np.unique(region[present] * (int(codes.max()) + 1) + codes[present], return_inverse=True)
    owner = pairs // (int(codes.max()) + 1)
    num_groups = np.bincount(owner, minlength=K)
    sums = np.bincount(pair, weights=(weights * (scores - estimate[region]))[present])
    several = np.where(num_groups > 1, num_groups, np.nan)
    variance = _divide(np.bincount(owner, weights=sums**2, minlength=K), total**2) * several / (several - 1)
    sizes = np.bincount(pair, weights=weights[present])
    effective = _divide(total**2, np.bincount(owner, weights=sizes**2, minlength=K))

    suppressed = num_units < min_units
    return DirectEstimates(
        regions=labels,
        estimate=np.where(suppressed, np.nan, estimate),
        std_err=np.where(suppressed, np.nan, np.sqrt(variance)),
        num_units=np.where(suppressed, 0, num_units).astype(np.int64),
        num_groups=np.where(suppressed, 0, num_groups).astype(np.int64),
        effective_groups=np.where(suppressed, np.nan, effective),
        suppressed=suppressed,
    )


def pool_errors(direct: DirectEstimates) -> FloatArray:
    """Standard errors (K,) of direct estimates from one variance between groups, the mean of all regions'.

    A variance from six groups is off by half of itself, and a weight that rests on it goes along; pooled over regions
    it rests on all groups. ASSUMED: groups vary alike in all regions. Regions of a single group get an error too,
    suppressed ones none (NaN).

    Raises
    ------
    EvaluationError
        When no region has two groups, or none varies.

    Notes
    -----
    A generalised variance function (Rao and Molina 2015, section 6.4.1) of one parameter: error_i^2 = s^2 / n_i, n_i
    the effective groups, s^2 = sum (G_i - 1) n_i std_err_i^2 / sum (G_i - 1).
    """
    several = np.isfinite(direct.std_err)
    freedom = (direct.num_groups - 1)[several]
    own = (direct.effective_groups * direct.std_err**2)[several]
    variance = float(np.sum(freedom * own) / freedom.sum()) if several.any() else 0.0
    if not variance > 0:
        raise EvaluationError(
            f"{int(several.sum())} of {len(several)} regions have two groups, and their variance is {variance:g}: "
            "there is no error to pool"
        )
    return np.asarray(np.sqrt(variance / direct.effective_groups))


def synthetic_estimates(
    tau_hat: ArrayLike,
    regions: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    supported: ArrayLike | None = None,
) -> SyntheticEstimates:
    """Average predicted effect of each region over its cells.

    Parameters
    ----------
    tau_hat : (n,)
        Effects of the cells; NaN where there is none (no imagery). Such a cell is left out and counted in
        ``share_predicted``.
    regions : (n,) integer or string labels
    weights : (n,), optional
        People (or area) of the cells; cells count alike when absent.
    supported : (n,) bool, optional
        Whether a cell is inside the area of applicability. It changes ``share_supported`` only: unsupported cells stay
        in the mean, which is the region's.

    Returns
    -------
    SyntheticEstimates

    Raises
    ------
    EvaluationError
        On infinite effects, negative weights, or other lengths.
    """
    effects = np.asarray(tau_hat, dtype=np.float64)
    known = ~np.isnan(effects)
    filled = vector("tau_hat", np.where(known, effects, 0.0))
    n = len(filled)
    labels, region = _regions(regions, n)
    people = weights_vector(weights, n)
    inside: NDArray[Any] = np.ones(n, dtype=np.bool_) if supported is None else np.asarray(supported)
    if inside.shape != (n,) or inside.dtype.kind != "b":
        raise EvaluationError(
            f"`supported` is {inside.dtype} of shape {inside.shape}: give True or False for {n} cells"
        )
    total, predicted, kept = (
        np.bincount(region, weights=people * cells, minlength=len(labels))
        for cells in (np.ones(n), known, known & inside)
    )
    share_supported = np.full(len(labels), np.nan) if supported is None else _divide(kept, total)
    return SyntheticEstimates(
        regions=labels,
        estimate=_divide(np.bincount(region, weights=people * filled, minlength=len(labels)), predicted),
        share_predicted=_divide(predicted, total),
        share_supported=share_supported,
        num_cells=np.bincount(region, minlength=len(labels)).astype(np.int64),
    )


def _regions(regions: ArrayLike, length: int) -> tuple[NDArray[Any], IntArray]:
    """Sorted labels, and the region of each row."""
    labels: NDArray[Any] = np.asarray(regions)
    group_codes(labels, length, name="regions")
    distinct, region = np.unique(labels.astype(str) if labels.dtype.kind == "O" else labels, return_inverse=True)
    return distinct, region.astype(np.int64)


def _divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> FloatArray:
    """The quotient; NaN where the denominator is zero."""
    return np.asarray(np.divide(numerator, denominator, out=np.full(len(denominator), np.nan), where=denominator > 0))
