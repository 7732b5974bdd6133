"""Small areas whose regression is known: a direct estimate and the map's own, weighed by how far the map is off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import finite_array, vector
from eo_cate.types import BoolArray, FloatArray

MIN_DIRECT = 4
"""With fewer direct estimates the variance between areas has no mean."""
_STEP = 0.25
_LOG_RANGE = (-60.0, 80.0)
"""Of the variance between areas over the median sampling variance; at both ends less than 1e-12 is left."""


@dataclass(frozen=True)
class CompositeEstimates:
    """Composite estimates of m areas, in the units of the outcome.

    Parameters
    ----------
    estimate, std_err : (m,) float64
        Mean and standard deviation of the posterior.
    low, high : (m,) float64
        Interval with equal tails.
    weight : (m,) float64
        Mean weight of the direct estimate, in [0, 1]; 0 where there is none.
    between_variance : float
        Posterior median of the variance of areas' effects around the synthetic estimates.
    num_direct : int
        Areas with a direct estimate.
    """

    estimate: FloatArray
    std_err: FloatArray
    low: FloatArray
    high: FloatArray
    weight: FloatArray
    between_variance: float
    num_direct: int


def composite_estimates(
    direct: ArrayLike,
    std_err: ArrayLike,
    synthetic: ArrayLike,
    *,
    own_variance: ArrayLike | None = None,
    level: float = 0.95,
) -> CompositeEstimates:
    """Composite of direct and synthetic estimates, with intervals that hold for few areas too.

    Parameters
    ----------
    direct : (m,)
        Direct estimates; NaN where an area was not sampled (or is suppressed).
    std_err : (m,)
        Their standard errors, taken as known; positive where ``direct`` is given. Errors from few groups are noisy:
        pool them first (`pool_errors`).
    synthetic : (m,)
        A model's estimates, whose errors must be independent of those of the same area's direct estimate: from a model
        that saw none of the area's units.
    own_variance : (m,), optional
        Variance of the effects around the synthetic estimates that is known to be an area's own, on top of what all
        areas share: small areas differ more from a model than large ones. 0 when absent.
    level : float
        Of the intervals.

    Returns
    -------
    CompositeEstimates

    Raises
    ------
    EvaluationError
        On infinite values, errors that are not positive, negative variances, a level outside (0, 1), or fewer than
        `MIN_DIRECT` direct estimates.

    Notes
    -----
    Fay and Herriot's model with a known regression: direct_i = synthetic_i + u_i + e_i, var u_i = A + own_variance_i,
    var e_i = std_err_i^2. A is integrated over (hierarchical Bayes: Rao and Molina 2015, section 10.3), with a uniform
    prior on its square root (Gelman 2006; uniform on A itself, intervals of few areas are wider by a sixth to two
    thirds). Given A, the posterior is normal with mean synthetic + g (direct - synthetic), variance g std_err^2,
    g = (A + own) / (A + own + std_err^2); without a direct estimate it is N(synthetic, A + own). Where REML finds
    A = 0, as in half of the draws with few areas, `fay_herriot` ignores the direct estimates, and its mean squared
    error, an expansion for many areas, is greatest for the most precise of them.
    """
    predicted = vector("synthetic", synthetic)
    y, D = _sampled("direct", direct, std_err, len(predicted))
    own = np.zeros(len(predicted)) if own_variance is None else vector("own_variance", own_variance)
    if len(own) != len(predicted) or (own < 0).any():
        raise EvaluationError(
            f"`own_variance` has {int((own < 0).sum())} negative values or not {len(predicted)} areas"
        )
    if not 0 < level < 1:
        raise EvaluationError(f"`level` is {level}: it must be between 0 and 1")

    sampled = ~np.isnan(y)
    A, probability = _posterior(y[sampled] - predicted[sampled], D[sampled], own[sampled])
    between = A[:, None] + own
    g = np.where(sampled, between / (between + D), 0.0)
    means = predicted + g * np.where(sampled, y - predicted, 0.0)
    variances = np.where(sampled, g * D, between)
    estimate = probability @ means
    spread = np.sqrt(probability @ (variances + (means - estimate) ** 2))
    low, high = (
        np.array([_quantile(p, probability, *area) for area in zip(means.T, np.sqrt(variances.T), strict=True)])
        for p in ((1 - level) / 2, (1 + level) / 2)
    )
    return CompositeEstimates(
        estimate=estimate,
        std_err=spread,
        low=low,
        high=high,
        weight=probability @ g,
        between_variance=float(np.interp(0.5, np.cumsum(probability), A)),
        num_direct=int(sampled.sum()),
    )


def _sampled(name: str, direct: ArrayLike, std_err: ArrayLike, length: int) -> tuple[FloatArray, FloatArray]:
    """Direct estimates (NaN kept) and sampling variances, 1 where there is none."""
    values, errors = np.asarray(direct, dtype=np.float64), np.asarray(std_err, dtype=np.float64)
    if values.shape != (length,) or errors.shape != (length,):
        raise EvaluationError(
            f"`{name}` has shape {values.shape} and `std_err` {errors.shape}: give one value for each of {length} areas"
        )
    sampled: BoolArray = ~np.isnan(values)
    finite_array(name, values[sampled])
    bad = int((~np.isfinite(errors[sampled]) | (errors[sampled] <= 0)).sum())
    if bad:
        raise EvaluationError(
            f"`std_err` is missing, infinite, zero or negative in {bad} of {int(sampled.sum())} areas with a direct "
            "estimate: pool errors of small areas (`pool_errors`), or set `direct` to NaN there"
        )
    if sampled.sum() < MIN_DIRECT:
        raise EvaluationError(f"{int(sampled.sum())} areas with a direct estimate, at least {MIN_DIRECT} are needed")
    return values, np.where(sampled, errors**2, 1.0)


def _posterior(miss: FloatArray, D: FloatArray, own: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Values of A and their posterior probabilities: the trapezoid rule on log A, exact to rounding."""
    A = float(np.median(D)) * np.exp(np.arange(*_LOG_RANGE, _STEP))
    total = A[:, None] + own + D
    log_density = 0.5 * (np.log(A) - (np.log(total) + miss**2 / total).sum(axis=1))
    density = np.exp(log_density - log_density.max())
    return A, density / density.sum()


def _quantile(p: float, probability: FloatArray, means: FloatArray, deviations: FloatArray) -> float:
    """Of a mixture of normals; Cantelli's inequality says where to look."""
    centre = float(probability @ means)
    reach = float(np.sqrt(probability @ (deviations**2 + (means - centre) ** 2))) / np.sqrt(min(p, 1 - p))
    return float(
        brentq(
            lambda x: float(probability @ ndtr((x - means) / deviations)) - p,
            centre - reach,
            centre + reach,
            xtol=1e-10 * reach,
        )
    )
