"""How far tau_hat is from the effect of a place, where every group shows one arm only (METHODS.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.types import BoolArray, FloatArray, IntArray

MIN_GROUPS_PER_ARM = 30
LEAST_FACTOR = 0.1


@dataclass(frozen=True)
class EffectError:
    """Mean squared error of tau_hat as the effect of left-out groups, in squared units of the outcome.

    Parameters
    ----------
    excess, std_err : float
        Variance of treated groups' means around tau_hat less that of untreated ones, and its standard error.
    level_slope : float
        What the untreated outcome changes by where the effect is greater by one, as far as tau_hat tells; NaN when
        tau_hat does not go along with the scores.
    mean_square, upper : float
        The mean squared error, and its one-sided upper limit at ``confidence``; infinite where it cannot be told.
    confidence : float
    num_treated, num_control : int
        Groups.
    """

    excess: float
    std_err: float
    level_slope: float
    mean_square: float
    upper: float
    confidence: float
    num_treated: int
    num_control: int


@dataclass(frozen=True)
class _Groups:
    """Means of each group, noise variance of its outcome around tau_hat, arm, and its inverse-probability weight."""

    outcome: FloatArray
    score: FloatArray
    tau_hat: FloatArray
    noise: FloatArray
    treated: BoolArray
    weight: FloatArray


def effect_error(
    Y: ArrayLike,
    W: ArrayLike,
    tau_hat: ArrayLike,
    dr_scores: ArrayLike,
    *,
    propensity: ArrayLike,
    groups: ArrayLike,
    sample_weights: ArrayLike | None = None,
    min_units: int = 5,
    confidence: float = 0.95,
) -> EffectError:
    """Mean squared error of tau_hat from the variance that treated groups have beyond untreated ones.

    Parameters
    ----------
    Y, W : (n,)
        Outcome, and treatment in {0, 1}, the same for all units of a group.
    tau_hat : (n,)
        Effects from a model that saw none of the unit's group.
    dr_scores : (n,)
        Doubly robust scores.
    propensity : (n,) or scalar
    groups : (n,) labels
    sample_weights : (n,), optional
    min_units : int
        Groups of fewer units are left aside.
    confidence : float
        Of the upper limit.

    Returns
    -------
    EffectError

    Raises
    ------
    EvaluationError
        On bad vectors, a group with both arms, or fewer than 30 groups in an arm.

    Notes
    -----
    A group's mean outcome is u, plus its effect tau if treated, plus the noise of its units, whose variance is known
    from within the group. Around tau_hat, with delta = tau - tau_hat, treated groups vary by Var(u) + E delta^2 +
    2 Cov(u, delta), untreated ones by Var(u), which randomisation makes the same: the difference is what treatment adds
    (Raudenbush and Bloom 2015; Ding, Feller and Miratrix 2019). Without a word on the covariance it bounds nothing
    better than (sd + sd)^2 does. ASSUMED: the level goes with the missed part of the effect as with the predicted part,
    u = k tau + v, v unrelated to delta. Then the excess is (1 + 2 k) E delta^2, and tau_hat is an instrument for k =
    Cov(Y, tau_hat | W = 0) / Cov(score, tau_hat). Only k < 0, which would make the error look small, is corrected for.
    u is not taken around a model of Y: one that was learnt from treated groups holds half of the effect already, and
    delta would go missing (in the demo by half). The upper limit adds normal standard errors of the excess to
    max(excess, 0); that of k is not in it.
    """
    if not 0.5 <= confidence < 1:
        raise EvaluationError(f"`confidence` is {confidence}: it must be from 0.5 to below 1")
    own = _average(Y, W, tau_hat, dr_scores, propensity, groups, sample_weights, min_units)
    arms = (own.treated, ~own.treated)
    counts = [int(arm.sum()) for arm in arms]
    if min(counts) < MIN_GROUPS_PER_ARM:
        raise EvaluationError(
            f"{counts[0]} treated and {counts[1]} untreated groups of at least {min_units} units: "
            f"{MIN_GROUPS_PER_ARM} of each are needed to tell the effects' variance from the groups' own"
        )
    around = own.outcome - np.where(own.treated, own.tau_hat, 0.0)
    untreated, its_error = _mean(around[arms[1]], own.weight[arms[1]])
    square = (around - untreated) ** 2 - own.noise
    (high, high_error), (low, low_error) = (_mean(square[arm], own.weight[arm]) for arm in arms)
    excess = high - low - 2 * its_error**2  # the mean's own error is in the first square, and missing from the second
    std_err = float(np.hypot(high_error, low_error))
    slope = _level_slope(own)
    factor = 1 + 2 * min(slope, 0.0) if np.isfinite(slope) else 0.0
    told = factor >= LEAST_FACTOR
    limit = max(excess, 0.0) + float(norm.ppf(confidence)) * std_err
    return EffectError(
        excess=excess,
        std_err=std_err,
        level_slope=slope,
        mean_square=max(excess, 0.0) / factor if told else float("inf"),
        upper=limit / factor if told else float("inf"),
        confidence=confidence,
        num_treated=counts[0],
        num_control=counts[1],
    )


def _average(
    Y: ArrayLike,
    W: ArrayLike,
    tau_hat: ArrayLike,
    dr_scores: ArrayLike,
    propensity: ArrayLike,
    groups: ArrayLike,
    sample_weights: ArrayLike | None,
    min_units: int,
) -> _Groups:
    outcome = vector("Y", Y)
    n = len(outcome)
    arm = treatment_vector(W, n)
    effects, scores = (vector(name, v, length=n) for name, v in (("tau_hat", tau_hat), ("dr_scores", dr_scores)))
    e = propensity_vector(propensity, n)
    codes, num_groups = group_codes(groups, n)
    weights = weights_vector(sample_weights, n, codes=codes)
    total = np.bincount(codes, weights=weights)
    mean = {
        name: np.bincount(codes, weights=weights * values) / total
        for name, values in (("Y", outcome), ("W", arm), ("t", effects), ("s", scores), ("e", e))
    }
    mixed = int(((mean["W"] > 0) & (mean["W"] < 1)).sum())
    if mixed:
        raise EvaluationError(
            f"{mixed} of {num_groups} groups have treated and untreated units: their effects show within them"
        )
    treated = mean["W"] == 1
    noise, size = mean_noise(outcome - arm * effects, weights, codes, num_groups)
    kept = size >= min_units
    weight = 1 / np.where(treated, mean["e"], 1 - mean["e"])
    return _Groups(mean["Y"][kept], mean["s"][kept], mean["t"][kept], noise[kept], treated[kept], weight[kept])


def mean_noise(
    values: FloatArray, weights: FloatArray, codes: IntArray, num_groups: int
) -> tuple[FloatArray, IntArray]:
    """Variance of each group's weighted mean as units within the group show it (0 for one unit), and its units."""
    total = np.bincount(codes, weights=weights, minlength=num_groups)
    size = np.bincount(codes[weights > 0], minlength=num_groups)
    mean = np.bincount(codes, weights=weights * values, minlength=num_groups) / total
    spread = np.bincount(codes, weights=(weights * (values - mean[codes])) ** 2, minlength=num_groups) / total**2
    several = np.maximum(size, 2)
    return np.where(size > 1, spread * several / (several - 1), 0.0), size


def _mean(values: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Weighted mean and its standard error."""
    mean = float(np.average(values, weights=weights))
    spread = float(np.sum((weights * (values - mean)) ** 2)) * len(values) / (len(values) - 1)
    return mean, float(np.sqrt(spread)) / float(weights.sum())


def _level_slope(own: _Groups) -> float:
    untreated = ~own.treated
    together = _covariance(own.score, own.tau_hat, np.ones(len(own.score)))
    if not together > 0:
        return float("nan")
    return _covariance(own.outcome[untreated], own.tau_hat[untreated], own.weight[untreated]) / together


def _covariance(a: FloatArray, b: FloatArray, weights: FloatArray) -> float:
    return float(np.cov(a, b, aweights=weights, ddof=0)[0, 1])
