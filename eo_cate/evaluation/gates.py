"""Effects by quantile of tau_hat, and who is in the top and in the bottom (METHODS.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, vector, weights_vector
from eo_cate.stats.vcov import LinearFit, check_vcov, fit_least_squares, several_groups
from eo_cate.types import BoolArray, FloatArray, IntArray

SUP_T_DRAWS = 50_000
"""Draws behind the joint critical value: its Monte-Carlo error is below .01."""

_EDGE = 1e-9
"""Shares this close below a boundary count as on it, so that rounding cannot make the row order matter."""


@dataclass(frozen=True)
class GatesResult:
    """Average effects by quantile of tau_hat, the lowest first, in the units of the outcome.

    Parameters
    ----------
    estimate, std_err : (K,) float64
        Weighted means of the DR scores.
    interval, joint_interval : (K, 2) float64
        Pointwise, and simultaneous over the K means.
    df : (K,) int64
        Degrees of freedom: groups in the quantile - 1.
    critical_value : (K,) float64
        Of the joint intervals.
    level : float
    mean_tau_hat : (K,) float64
        What was predicted for them.
    num_units, num_groups : (K,) int64
        Units and groups that are in each quantile.
    difference, difference_std_err : float
        Top - bottom.
    difference_df : float
        Welch's, from those of the top and the bottom, at most all groups - 1.
    difference_interval : (float, float)
    difference_p : float
        One-sided: the top is above the bottom.
    quantile : (n,) int64
        Quantile of each unit, 0 the lowest.
    """

    estimate: FloatArray
    std_err: FloatArray
    interval: FloatArray
    joint_interval: FloatArray
    df: IntArray
    critical_value: FloatArray
    level: float
    mean_tau_hat: FloatArray
    num_units: IntArray
    num_groups: IntArray
    difference: float
    difference_std_err: float
    difference_df: float
    difference_interval: tuple[float, float]
    difference_p: float
    quantile: IntArray


@dataclass(frozen=True)
class ClanResult:
    """Covariate means of the units with the largest and the smallest tau_hat, one entry per covariate.

    Parameters
    ----------
    names : tuple of str, length k
    top, bottom, difference, std_err : (k,) float64
        Weighted means, top - bottom, and its standard error by group; NaN where nobody has the covariate, the error
        also where fewer than 2 groups of one side have it.
    p, adjusted_p : (k,) float64
        Two-sided, t with Welch's degrees of freedom from the groups of each side; Benjamini-Hochberg over the p that
        exist.
    num_top, num_bottom : (k,) int64
        Units with the covariate present.
    df : (k,) float64
        Welch's degrees of freedom, at most all groups - 1.
    """

    names: tuple[str, ...]
    top: FloatArray
    bottom: FloatArray
    difference: FloatArray
    std_err: FloatArray
    p: FloatArray
    adjusted_p: FloatArray
    num_top: IntArray
    num_bottom: IntArray
    df: FloatArray


def gates(
    dr_scores: ArrayLike,
    tau_hat: ArrayLike,
    *,
    num_groups: int = 5,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    vcov: str = "HC2",
    level: float = 0.95,
    seed: int = 0,
) -> GatesResult:
    """Sorted group average effects: means of DR scores by quantile of out-of-group tau_hat.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores, in the units of the outcome.
    tau_hat : (n,)
        Effects learnt from other groups: the caller's responsibility.
    num_groups : int
        K, quantile groups of (weighted) equal size, at least 2; equal tau_hat stay together.
    sample_weights : (n,), optional
    groups : (n,) labels, optional
        Clusters of the covariance; every unit its own when absent.
    folds : (n,) labels, optional
        Quantiles are taken within each: give the folds when tau_hat comes from one model per fold, whose levels
        are not comparable.
    vcov : {"HC0", "HC1", "HC2", "HC3"}
    level : float
        Of the intervals.
    seed : int
        Of the joint critical value.

    Returns
    -------
    GatesResult

    Raises
    ------
    EvaluationError
        On bad vectors, fewer than 2 groups, a quantile that ties leave empty, or (HC2, HC3) one that rests on a
        single group.

    Notes
    -----
    Chernozhukov, Demirer, Duflo, Fernandez-Val (2018). Degrees of freedom count the groups that a mean rests on: when
    tau_hat is shared by a village a quintile of 60 villages holds 12, and 59 degrees of freedom cover too little
    (joint 95 % intervals: 90 %). Joint intervals are sup-t (Montiel Olea and Plagborg-Moller 2019) on the scale of p,
    which serves unequal degrees of freedom: the pointwise level is the quantile of the smallest p of t variables with
    the estimated correlation, from `SUP_T_DRAWS` draws.
    """
    check_vcov(vcov)
    _check_level(level)
    if num_groups < 2:
        raise EvaluationError(f"`num_groups` is {num_groups}: at least 2 quantile groups can be compared")
    scores = vector("dr_scores", dr_scores)
    tau = vector("tau_hat", tau_hat, length=len(scores))
    codes, total_groups = several_groups(groups, len(scores))
    weights = weights_vector(sample_weights, len(scores), codes=codes)
    quantile = quantile_of(rank_shares(tau, weights, folds), num_groups)
    members = (quantile[:, None] == np.arange(num_groups)) & (weights > 0)[:, None]
    _check_quantiles(members, weights, tau)

    terms = [f"quantile {k + 1}" for k in range(num_groups)]
    fit = fit_least_squares(members.astype(np.float64), scores, weights, codes, terms=terms, vcov=vcov)
    groups_within = np.array([len(np.unique(codes[m])) for m in members.T])
    df = groups_within - 1
    alone = _sup_t_level(fit, df, level, seed)
    critical = np.asarray(stats.t.isf(alone / 2, df), dtype=np.float64)
    difference = _compare(fit, df, cap=total_groups - 1)
    half = float(stats.t.isf((1 - level) / 2, difference.df)) * difference.std_err
    return GatesResult(
        estimate=fit.coefficients,
        std_err=fit.std_err,
        interval=_interval(fit, np.asarray(stats.t.isf((1 - level) / 2, df), dtype=np.float64)),
        joint_interval=_interval(fit, critical),
        df=df,
        critical_value=critical,
        level=level,
        mean_tau_hat=np.array([np.average(tau[m], weights=weights[m]) for m in members.T]),
        num_units=members.sum(axis=0),
        num_groups=groups_within,
        difference=difference.estimate,
        difference_std_err=difference.std_err,
        difference_df=difference.df,
        difference_interval=(difference.estimate - half, difference.estimate + half),
        difference_p=difference.p_value(one_sided=True),
        quantile=quantile,
    )


def clan(
    covariates: pd.DataFrame | ArrayLike,
    tau_hat: ArrayLike,
    *,
    names: tuple[str, ...] | list[str] | None = None,
    share: float = 0.2,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    vcov: str = "HC2",
) -> ClanResult:
    """Classification analysis: who has the largest and who the smallest predicted effects?

    Parameters
    ----------
    covariates : (n, k) DataFrame or array
        NaN = missing: a covariate is averaged over the units that have it.
    tau_hat : (n,)
        Effects learnt from other groups: the caller's responsibility.
    names : k names, optional
        Of the columns; a DataFrame's own, or x1, x2, ..., when absent.
    share : float
        Weighted share of units in the top and in the bottom, in (0, .5].
    sample_weights, groups, folds, vcov
        As in `gates`.

    Returns
    -------
    ClanResult

    Raises
    ------
    EvaluationError
        On bad vectors, infinite covariates, other numbers of names, fewer than 2 groups, or a top or bottom that
        ties leave empty.

    Notes
    -----
    Chernozhukov, Demirer, Duflo, Fernandez-Val (2018); Benjamini and Hochberg (1995).
    """
    check_vcov(vcov)
    if not 0 < share <= 0.5:
        raise EvaluationError(f"`share` is {share}: the top and the bottom need a share in (0, 0.5] each")
    tau = vector("tau_hat", tau_hat)
    labels, values = _covariate_columns(covariates, names, len(tau))
    codes, _ = several_groups(groups, len(tau))
    weights = weights_vector(sample_weights, len(tau), codes=codes)
    ranks = rank_shares(tau, weights, folds)
    sides = np.column_stack([ranks < share - _EDGE, ranks >= 1 - share - _EDGE]) & (weights > 0)[:, None]
    _check_quantiles(sides, weights, tau)

    rows = [_compare_sides(column, sides, weights, codes, vcov) for column in values.T]
    bottom, top, std_err, df, p = np.array([row[:5] for row in rows], dtype=np.float64).reshape(-1, 5).T
    counts = np.array([row[5:] for row in rows], dtype=np.int64).reshape(-1, 2)
    return ClanResult(labels, top, bottom, top - bottom, std_err, p, adjust_p(p), counts[:, 1], counts[:, 0], df)


def adjust_p(p: FloatArray) -> FloatArray:
    """Benjamini and Hochberg's p over those of (m,) that exist; NaN elsewhere."""
    adjusted = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


def rank_shares(tau_hat: FloatArray, weights: FloatArray, folds: ArrayLike | None = None) -> FloatArray:
    """Mid-rank of each unit as a weighted share in (0, 1), shape (n,); ties share one rank; within each fold."""
    one_fold = np.zeros(len(tau_hat), dtype=np.int64)
    codes, num_folds = group_codes(one_fold if folds is None else folds, len(tau_hat), name="folds")
    shares = np.empty(len(tau_hat))
    for fold in range(num_folds):
        rows = codes == fold
        _, place = np.unique(tau_hat[rows], return_inverse=True)
        mass = np.bincount(place, weights=weights[rows])
        cumulated = np.cumsum(mass)
        if cumulated[-1] <= 0:
            raise EvaluationError(f"`sample_weights` are all zero in one of {num_folds} folds: drop its units")
        shares[rows] = ((cumulated - mass / 2) / cumulated[-1])[place]
    return shares


def quantile_of(shares: FloatArray, num_groups: int) -> IntArray:
    """Quantile group, 0 to K - 1, of each of `rank_shares`, shape (n,)."""
    return np.minimum((shares * num_groups + _EDGE).astype(np.int64), num_groups - 1)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise EvaluationError(f"`level` is {level}: give a coverage in (0, 1), such as 0.95")


def _check_quantiles(members: BoolArray, weights: FloatArray, tau_hat: FloatArray) -> None:
    empty = int((weights @ members <= 0).sum())
    if empty:
        raise EvaluationError(
            f"{empty} of {members.shape[1]} groups by tau_hat are empty: `tau_hat` has {len(np.unique(tau_hat))} "
            "distinct values, and equal values stay together; ask for fewer or larger groups"
        )


def _interval(fit: LinearFit, critical: FloatArray) -> FloatArray:
    half = critical * fit.std_err
    return np.column_stack([fit.coefficients - half, fit.coefficients + half])


def _sup_t_level(fit: LinearFit, df: IntArray, level: float, seed: int) -> float:
    """Pointwise two-sided level at which all coefficients are covered together; one without error is left out."""
    std_err = fit.std_err
    kept = std_err > 0
    if not kept.any():
        return 1 - level
    correlation = fit.covariance[np.ix_(kept, kept)] / np.outer(std_err[kept], std_err[kept])
    root = np.linalg.svd(correlation)
    rng = np.random.default_rng(seed)
    t = rng.standard_normal((SUP_T_DRAWS, len(correlation))) @ (root.U * np.sqrt(root.S)).T
    t /= np.sqrt(rng.chisquare(df[kept], t.shape) / df[kept])
    p = np.asarray(2 * stats.t.sf(np.abs(t), df[kept]), dtype=np.float64)
    return float(np.quantile(p.min(axis=1), 1 - level))


@dataclass(frozen=True)
class _Difference:
    """Last coefficient minus the first."""

    estimate: float
    std_err: float
    df: float

    def p_value(self, *, one_sided: bool = False) -> float:
        """p; without any spread, 1 when there is no difference and 0 when there is one."""
        if self.std_err == 0:
            return float(self.estimate <= 0 if one_sided else self.estimate == 0)
        t = self.estimate / self.std_err
        return float(stats.t.sf(t, self.df) if one_sided else 2 * stats.t.sf(abs(t), self.df))


def _compare(fit: LinearFit, df: IntArray, *, cap: int) -> _Difference:
    """Welch's degrees of freedom, at most ``cap``."""
    contrast = np.zeros(len(df))
    contrast[[0, -1]] = -1.0, 1.0
    variances, ends = fit.std_err[[0, -1]] ** 2, df[[0, -1]]
    spread = float(np.sum(variances**2 / ends))
    welch = float(variances.sum()) ** 2 / spread if spread > 0 else float(cap)
    return _Difference(float(contrast @ fit.coefficients), fit.contrast_std_err(contrast), min(welch, float(cap)))


def _covariate_columns(
    covariates: pd.DataFrame | ArrayLike, names: tuple[str, ...] | list[str] | None, length: int
) -> tuple[tuple[str, ...], FloatArray]:
    """Names, and values (n, k) with NaN where missing."""
    values = np.asarray(covariates, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != length:
        raise EvaluationError(f"`covariates` has shape {values.shape}, but there are {length} units: give (n, k)")
    if names is None and isinstance(covariates, pd.DataFrame):
        names = [str(column) for column in covariates.columns]
    labels = tuple(names) if names is not None else tuple(f"x{j + 1}" for j in range(values.shape[1]))
    if len(labels) != values.shape[1]:
        raise EvaluationError(f"`names` has {len(labels)} entries for {values.shape[1]} covariates")
    infinite = [label for label, column in zip(labels, values.T, strict=True) if np.isinf(column).any()]
    if infinite:
        raise EvaluationError(f"`covariates` has infinite values in {infinite}: NaN is what marks a missing value")
    return labels, values


def _compare_sides(
    column: FloatArray, sides: BoolArray, weights: FloatArray, codes: IntArray, vcov: str
) -> tuple[float, float, float, float, float, int, int]:
    """Means of the bottom and the top; standard error, df and p of top - bottom; units with the covariate in each."""
    present = [side & np.isfinite(column) for side in sides.T]
    counts = int(present[0].sum()), int(present[1].sum())
    means = [float(np.average(column[side], weights=weights[side])) if side.any() else np.nan for side in present]
    within = np.array([len(np.unique(codes[side])) for side in present])
    rows = present[0] | present[1]
    values = column[rows]
    if not min(counts) or within.min() < 2:
        return means[0], means[1], np.nan, np.nan, np.nan, *counts
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0]), 0.0, np.nan, 1.0, *counts
    groups, num_groups = group_codes(codes[rows], len(values))
    design = np.column_stack(present)[rows].astype(np.float64)
    fit = fit_least_squares(design, values, weights[rows], groups, terms=("bottom", "top"), vcov=vcov)
    difference = _compare(fit, within - 1, cap=num_groups - 1)
    return means[0], means[1], difference.std_err, difference.df, difference.p_value(), *counts
