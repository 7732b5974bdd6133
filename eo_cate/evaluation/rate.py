"""RATE: does a ranking of units find those with the largest effects? (METHODS.md, section 2)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError, LeakageError
from eo_cate.stats.checks import finite_array, group_codes, vector, weights_vector
from eo_cate.stats.half_samples import draw_half_samples
from eo_cate.types import FloatArray, IntArray

TARGETS = ("AUTOC", "QINI")
_ZERO = 1e-15
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Priorities:
    """A ranking that knows which groups it was learnt from.

    Parameters
    ----------
    values : (n,) or (n, 2) float64
        Priority of each evaluation unit, the largest is treated first.
    train_groups : (G,) labels
        Groups of the units that the ranking was trained on, labelled as the ``groups`` given to `rate`.
    """

    values: FloatArray
    train_groups: NDArray[Any]


@dataclass(frozen=True)
class RateResult:
    """RATE and TOC: one row per priority; with two priorities three rows: first, second, first - second.

    Parameters
    ----------
    target : str
        ``AUTOC`` or ``QINI``.
    estimate, std_err : (m,) float64
        In the units of the outcome; m is 1 or 3.
    q : (Q,) float64
        Shares treated.
    toc, toc_std_err : (m, Q) float64
        TOC(q) and its standard error.
    """

    target: str
    estimate: FloatArray
    std_err: FloatArray
    q: FloatArray
    toc: FloatArray
    toc_std_err: FloatArray


@dataclass(frozen=True)
class _Ranking:
    """Units in the order of treatment: ``order`` (n,), ``ties`` (T,) first positions of tied runs, ``sizes`` (T,)."""

    order: IntArray
    ties: IntArray
    sizes: IntArray

    @property
    def has_ties(self) -> bool:
        return len(self.ties) < len(self.order)

    @property
    def is_constant(self) -> bool:
        return len(self.ties) == 1


def rate(
    dr_scores: ArrayLike,
    priorities: ArrayLike | Priorities,
    *,
    target: str = "AUTOC",
    q: ArrayLike | None = None,
    num_replicates: int = 200,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> RateResult:
    """Rank-weighted average treatment effect with a half-sample bootstrap by group, exactly as grf defines it.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores of the evaluation units, in the units of the outcome.
    priorities : (n,), (n, 2) or Priorities
        Rankings, the largest is treated first. A plain array must come from other groups than these: that is the
        caller's responsibility; a `Priorities` is checked.
    target : {"AUTOC", "QINI"}
        AUTOC: integral of TOC(u); QINI: integral of u TOC(u).
    q : (Q,), optional
        Shares in (0, 1] at which TOC is given; .1, .2, ..., 1 when absent.
    num_replicates : int
        Half-samples behind the standard errors.
    sample_weights : (n,), optional
    groups : (n,) labels, optional
        Indivisible blocks of the bootstrap; every unit its own when absent.
    seed : int

    Returns
    -------
    RateResult

    Raises
    ------
    LeakageError
        When a `Priorities` was trained on some of the evaluation groups.
    EvaluationError
        On NaN or infinite values, other lengths, bad weights, fewer than 2 groups or replicates, q outside (0, 1].

    Notes
    -----
    Yadlowsky, Fleming, Shah, Brunskill, Wager (2021); METHODS.md, section 2. Ties share the weighted mean of their
    scores, within a tie units keep their order, the last unit of a share counts fractionally. One distinct priority
    gives 0.
    """
    scores = vector("dr_scores", dr_scores)
    values = _check_priorities(priorities, groups, len(scores))
    codes, num_groups = group_codes(groups, len(scores))
    weights = weights_vector(sample_weights, len(scores), codes=codes)
    shares = _check_shares(q)
    check_target(target)
    members = draw_half_samples(num_groups, num_replicates, seed=seed)

    rankings = [rank_units(column) for column in values.T]
    points = [_statistics(scores, weights[None, :], ranking, shares, target) for ranking in rankings]
    replicates = [_replicate(scores, weights, codes, members, ranking, shares, target) for ranking in rankings]
    point, replicate = _with_difference(points)[:, 0], _with_difference(replicates)
    std_err = _drop_dust(replicate.std(axis=1, ddof=1))
    point = _drop_dust(point)
    return RateResult(target, point[:, 0], std_err[:, 0], shares, point[:, 1:], std_err[:, 1:])


def null_std_err(
    dr_scores: FloatArray,
    priorities: FloatArray,
    *,
    target: str = "AUTOC",
    sample_weights: FloatArray | None = None,
    groups: ArrayLike | None = None,
) -> float:
    """Standard error of RATE when the effect is constant, by group (METHODS.md, section 3, step 4).

    RATE is sum(omega a Gamma) / sum(omega) with a that depends on ranks and weights only; the clustered variance of
    that sum about the mean score is steadier than half-samples when groups are few.

    Raises
    ------
    EvaluationError
        With fewer than 2 groups.
    """
    codes, num_groups = group_codes(groups, len(dr_scores))
    if num_groups < 2:
        raise EvaluationError(f"{num_groups} group(s): a standard error needs at least 2; check `groups`")
    weights = weights_vector(sample_weights, len(dr_scores), codes=codes)
    influence = rank_weights(priorities, weights, target=target)
    influence = influence * weights * (dr_scores - np.average(dr_scores, weights=weights))
    total = np.bincount(codes, weights=influence)
    return float(np.sqrt(np.sum(total**2) * num_groups / (num_groups - 1)) / weights.sum())


def rank_weights(priorities: FloatArray, weights: FloatArray, *, target: str) -> FloatArray:
    """Weights a of RATE = sum(omega a Gamma) / sum(omega), shape (n,): what a unit's rank is worth (mean zero)."""
    check_target(target)
    ranking = rank_units(priorities)
    if ranking.is_constant:
        return np.zeros(len(weights))
    w = weights[ranking.order]
    cumulated = np.cumsum(w)
    share = w / np.where(cumulated > 0, cumulated, 1.0) if target == "AUTOC" else w / cumulated[-1]
    a = np.cumsum(share[::-1])[::-1]
    a -= np.sum(w * a) / cumulated[-1]
    if ranking.has_ties:
        a = _share_within_ties(a * w, w, ranking)
    result = np.empty(len(a))
    result[ranking.order] = a
    return result


def rank_units(priority: FloatArray) -> _Ranking:
    """Sort by priority, largest first, equal priorities in input order."""
    order = np.argsort(-priority, kind="stable")
    ordered = priority[order]
    ties = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return _Ranking(order, ties, np.diff(np.append(ties, len(order))))


def check_target(target: str) -> None:
    """Refuse anything but AUTOC and QINI."""
    if target not in TARGETS:
        raise EvaluationError(f"`target` is {target!r}: choose one of {TARGETS}")


def _check_priorities(priorities: ArrayLike | Priorities, groups: ArrayLike | None, length: int) -> FloatArray:
    if isinstance(priorities, Priorities):
        _check_disjoint(priorities.train_groups, groups)
        priorities = priorities.values
    values = finite_array("priorities", priorities, length=length)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] not in (1, 2):
        raise EvaluationError(f"`priorities` has shape {values.shape}: give (n,) or, for a difference, (n, 2)")
    return values


def _check_disjoint(train_groups: NDArray[Any], groups: ArrayLike | None) -> None:
    if groups is None:
        raise EvaluationError("`groups` is absent: priorities that know their training groups need it, to be checked")
    evaluation, train = np.asarray(groups), np.asarray(train_groups)
    if (evaluation.dtype.kind in "iu") != (train.dtype.kind in "iu"):
        raise EvaluationError(
            f"`groups` are {evaluation.dtype}, the training groups {train.dtype}: use the same labels for both"
        )
    shared = len(np.intersect1d(evaluation, train))
    if shared:
        raise LeakageError(
            f"the priorities were trained on {shared} of the {len(np.unique(evaluation))} groups that they are "
            "evaluated on: split by group and evaluate on the groups left out (`sequential_rate` does)"
        )


def _check_shares(q: ArrayLike | None) -> FloatArray:
    shares = np.arange(1, 11) / 10 if q is None else np.atleast_1d(vector("q", np.atleast_1d(np.asarray(q))))
    bad = int(((shares <= 0) | (shares > 1)).sum())
    if bad or not len(shares):
        raise EvaluationError(f"`q` has {bad} of {len(shares)} values outside (0, 1]: give shares of the units treated")
    return shares


def _replicate(
    scores: FloatArray,
    weights: FloatArray,
    codes: IntArray,
    members: NDArray[np.bool_],
    ranking: _Ranking,
    shares: FloatArray,
    target: str,
) -> FloatArray:
    """[RATE, TOC(q)...] on each half-sample, shape (R, 1 + Q): units outside it get weight 0, the order is kept."""
    step = max(1, _CHUNK // len(scores))
    blocks = [members[start : start + step][:, codes] * weights for start in range(0, len(members), step)]
    return np.concatenate([_statistics(scores, block, ranking, shares, target) for block in blocks])


def _statistics(
    scores: FloatArray, weights: FloatArray, ranking: _Ranking, shares: FloatArray, target: str
) -> FloatArray:
    """[RATE, TOC(q)...] under each row of weights (B, n), shape (B, 1 + Q)."""
    draws, n = weights.shape
    if ranking.is_constant:
        return np.zeros((draws, 1 + len(shares)))
    w = np.take(weights, ranking.order, axis=1)
    gain = w * (scores - np.average(scores, weights=weights.sum(axis=0)))[ranking.order]
    if ranking.has_ties:
        gain = w * _share_within_ties(gain, w, ranking)
    cumulated_w, cumulated = np.zeros((draws, n + 1)), np.zeros((draws, n + 1))
    np.cumsum(w, axis=1, out=cumulated_w[:, 1:])
    np.cumsum(gain, axis=1, out=cumulated[:, 1:])
    total, mean = cumulated_w[:, -1], cumulated[:, -1] / cumulated_w[:, -1]

    result = np.empty((draws, 1 + len(shares)))
    for row in range(draws):
        treated = shares * total[row]
        result[row, 1:] = np.interp(treated, cumulated_w[row], cumulated[row]) / treated - mean[row]
    positive = np.where(cumulated_w[:, 1:] > 0, cumulated_w[:, 1:], 1.0)
    toc = cumulated[:, 1:] / positive - mean[:, None]
    if target == "QINI":
        toc *= cumulated_w[:, 1:] / total[:, None]
    result[:, 0] = np.einsum("ij,ij->i", w, toc) / total
    return result


def _share_within_ties(weighted: FloatArray, weights: FloatArray, ranking: _Ranking) -> FloatArray:
    """Weighted mean within each tied run, along the last axis, repeated for its units."""
    sums = np.add.reduceat(weighted, ranking.ties, axis=-1)
    masses = np.add.reduceat(weights, ranking.ties, axis=-1)
    means: FloatArray = sums / np.where(masses > 0, masses, 1.0)
    return np.repeat(means, ranking.sizes, axis=-1)


def _with_difference(statistics: list[FloatArray]) -> FloatArray:
    stacked = np.stack(statistics)
    return np.concatenate([stacked, stacked[:1] - stacked[1:]]) if len(stacked) == 2 else stacked


def _drop_dust(values: FloatArray) -> FloatArray:
    return np.where(np.abs(values) < _ZERO, 0.0, values)
