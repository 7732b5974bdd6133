"""The average effect of a region that was never sampled (METHODS.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from eo_cate.errors import EvaluationError
from eo_cate.extrapolation.membership import Membership, Overlap
from eo_cate.stats.checks import group_codes, vector
from eo_cate.stats.half_samples import draw_half_samples
from eo_cate.types import FloatArray

MIN_EFFECTIVE_GROUPS = 30.0
MIN_EFFECTIVE_SHARE = 0.1
MIN_REGION_CLUSTERS = 5
"""Of a survey of the region: fewer say nothing of how well it stands for the region."""


@dataclass(frozen=True)
class TransportedEffect:
    """Average effect of a region's cells, in the units of the outcome.

    Parameters
    ----------
    estimate, std_err : float
    interval : (float, float)
        At ``level``, t with effective_groups - 1 degrees of freedom; for a sample of the region Satterthwaite's, of the
        two parts of the error.
    level : float
    predicted, correction : float
        The region's mean tau_hat, and what the trial's weighted residuals add to it: ``estimate`` is their sum.
    effective_groups : float
        Groups that the weights leave.
    num_groups : int
        Groups of the trial.
    assumption : str
        What must hold, in plain words, naming the moderators.
    overlap : Overlap
    """

    estimate: float
    std_err: float
    interval: tuple[float, float]
    level: float
    predicted: float
    correction: float
    effective_groups: float
    num_groups: int
    assumption: str
    overlap: Overlap


def transported_effect(
    dr_scores: ArrayLike,
    tau_hat: ArrayLike,
    tau_hat_region: ArrayLike,
    *,
    membership: Membership,
    region_groups: ArrayLike | None = None,
    min_effective_groups: float = MIN_EFFECTIVE_GROUPS,
    min_effective_share: float = MIN_EFFECTIVE_SHARE,
    num_replicates: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> TransportedEffect:
    """Doubly robust average effect of a region: its mean tau_hat, corrected by the trial's residuals weighted to it.

    Parameters
    ----------
    dr_scores, tau_hat : (n,)
        Doubly robust scores and out-of-group effects of the trial's units, in the order of the membership's ``X``.
        Whatever tau_hat the scores themselves were made with, they may be used here.
    tau_hat_region : (N,)
        Effects of the region's cells or people, in the order of ``X_region``.
    membership : Membership
        From `fit_membership`; holds groups and weights.
    region_groups : (N,) labels, optional
        Sampling clusters of the region's rows where these are a sample of it (a survey): the error of their mean is
        then added. Absent: they are all of the region (the cells of a map).
    min_effective_groups, min_effective_share : float
        Below this number of effective groups, or this share of the groups, nothing is estimated.
    num_replicates : int
        Half-samples behind the standard error.
    level : float
        Of the interval.
    seed : int

    Returns
    -------
    TransportedEffect

    Raises
    ------
    EvaluationError
        On bad vectors, when trial and region overlap too little, or when a sample of the region is one cluster.

    Notes
    -----
    Dahabreh et al. (2020), with weights that sum to one: mean of tau_hat over the region + weighted mean over the trial
    of (score - tau_hat), weights (1 - p) / p. Consistent when either the membership model or tau_hat is right. The
    standard error is the sd over half-samples of groups of the second term; with ``region_groups`` the linearised
    variance of the first, by cluster (drawn with replacement; Lohr 2010, section 5.2), is added. Weights count as
    known, which is conservative when their model is right.
    """
    n, N = len(membership.weights), len(membership.region_weights)
    scores, effects = vector("dr_scores", dr_scores, length=n), vector("tau_hat", tau_hat, length=n)
    cells = vector("tau_hat_region", tau_hat_region, length=N)
    if not 0 < level < 1:
        raise EvaluationError(f"`level` is {level}: it must be between 0 and 1")
    _refuse_small_overlap(membership, min_effective_groups, min_effective_share)

    predicted, sampling, clusters = _predict(cells, membership, region_groups)
    correction, trial_error = _correct(scores - effects, membership, num_replicates, seed)
    estimate, std_err = predicted + correction, float(np.hypot(trial_error, sampling))
    degrees = membership.effective_groups - 1
    if sampling > 0:
        degrees = std_err**4 / (trial_error**4 / degrees + sampling**4 / (clusters - 1))
    reach = float(stats.t.ppf((1 + level) / 2, degrees)) * std_err
    return TransportedEffect(
        estimate=estimate,
        std_err=std_err,
        interval=(estimate - reach, estimate + reach),
        level=level,
        predicted=predicted,
        correction=correction,
        effective_groups=membership.effective_groups,
        num_groups=membership.num_groups,
        assumption=state_assumption(membership.overlap.moderators),
        overlap=membership.overlap,
    )


def state_assumption(moderators: tuple[str, ...]) -> str:
    """The assumption behind a transported effect, to be printed beside it."""
    listed = ", ".join(moderators[:12]) + (f" and {len(moderators) - 12} more" if len(moderators) > 12 else "")
    return (
        "Assumes that places and people with the same values of the moderators have the same average effect in the "
        "trial and in the region, and that every mix of them in the region also occurs in the trial. "
        f"Moderators: {listed}. Anything else that changes the effect and differs between the two biases this figure."
    )


def _refuse_small_overlap(membership: Membership, least: float, share: float) -> None:
    found, total = membership.effective_groups, membership.num_groups
    needed = max(least, share * total)
    if found < needed:
        raise EvaluationError(
            f"weighted to the region, the trial's {total} groups are worth {found:.1f}, but {needed:.1f} are needed "
            f"(at least {least:g} and {100 * share:g} % of the groups): the region is too unlike the trial for an "
            "average effect; restrict it to supported cells, or use fewer moderators (see the membership's `overlap`)"
        )


def _predict(
    effects: FloatArray, membership: Membership, region_groups: ArrayLike | None
) -> tuple[float, float, float]:
    """The region's mean effect, its standard error as a sample (0 where it is none), and the effective clusters."""
    weights = membership.region_weights
    mean = float(np.average(effects, weights=weights))
    if region_groups is None:
        return mean, 0.0, np.inf
    codes, count = group_codes(region_groups, len(effects), name="region_groups")
    by_cluster = np.bincount(codes, weights=weights)
    clusters = float(by_cluster.sum() ** 2 / np.sum(by_cluster**2))
    if clusters < MIN_REGION_CLUSTERS:
        raise EvaluationError(
            f"the region's {len(effects):,} people come from {count} sampling cluster(s), worth {clusters:.1f} by "
            f"their weights, but a standard error needs {MIN_REGION_CLUSTERS}"
        )
    deviations = np.bincount(codes, weights=weights * (effects - mean))
    variance = np.sum(deviations**2) / weights.sum() ** 2 * count / (count - 1)
    return mean, float(np.sqrt(variance)), clusters


def _correct(residual: FloatArray, membership: Membership, num_replicates: int, seed: int) -> tuple[float, float]:
    """Weighted mean residual of the trial, and its half-sample standard error."""
    sums = np.bincount(membership.codes, weights=membership.weights * residual)
    weights = np.bincount(membership.codes, weights=membership.weights)
    drawn = draw_half_samples(membership.num_groups, num_replicates, seed=seed)
    replicates = (drawn @ sums) / (drawn @ weights)
    return float(sums.sum() / weights.sum()), float(replicates.std(ddof=1))
