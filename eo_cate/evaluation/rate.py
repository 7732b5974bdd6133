"""RATE: does a ranking of units find those with the largest effects? (METHODS.md, section 2)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError, LeakageError
from eo_cate.evaluation.rate_kernel import replicate_statistics
from eo_cate.stats.checks import finite_array, group_codes, vector, weights_vector
from eo_cate.stats.half_samples import draw_half_samples
from eo_cate.types import BoolArray, FloatArray, IntArray

TARGETS = ("AUTOC", "QINI")
_ZERO = 1e-15


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
    """Units in the order of treatment: ``order`` (n,), and ``run_ends`` (n,), True at the last of each tied run."""

    order: IntArray
    run_ends: BoolArray

    @property
    def ties(self) -> IntArray:
        """First position of each tied run, shape (T,)."""
        return np.concatenate([[0], np.flatnonzero(self.run_ends)[:-1] + 1])

    @property
    def sizes(self) -> IntArray:
        """Number of units of each tied run, shape (T,)."""
        return np.diff(np.append(self.ties, len(self.order)))

    @property
    def has_ties(self) -> bool:
        return not self.run_ends.all()

    @property
    def is_constant(self) -> bool:
        return not self.run_ends[:-1].any()


@dataclass(frozen=True)
class _Units:
    """Evaluation units in input order, each array (n,), and the half-samples of their groups, ``members`` (R, G)."""

    scores: FloatArray
    weights: FloatArray
    is_weighted: bool
    codes: NDArray[np.int32]
    members: BoolArray


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
    values = check_priorities(priorities, groups, len(scores))
    shares = check_shares(q)
    check_target(target)
    units = _draw_units(scores, sample_weights, groups, num_replicates, seed)
    return _summarise(np.stack([_statistics(units, column, shares, target) for column in values.T]), target, shares)


def rate_over_mean(
    dr_scores: ArrayLike,
    priorities: ArrayLike,
    *,
    target: str = "AUTOC",
    num_replicates: int = 200,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> RateResult:
    """RATE of a first ranking less the mean RATE of others, on the same half-samples.

    Parameters
    ----------
    priorities : (n, 1 + m)
        The first column is compared with the mean over the others; training groups are the caller's responsibility.

    Other parameters as in `rate`.

    Returns
    -------
    RateResult, three rows: first, mean of the others, difference.

    Raises
    ------
    EvaluationError
        As `rate`, or with fewer than two columns.
    """
    scores = vector("dr_scores", dr_scores)
    values = finite_array("priorities", priorities, length=len(scores))
    if values.ndim != 2 or values.shape[1] < 2:
        raise EvaluationError(f"`priorities` has shape {values.shape}: give (n, 1 + m), the first against m others")
    shares = check_shares(None)
    check_target(target)
    units = _draw_units(scores, sample_weights, groups, num_replicates, seed)
    first, *others = (_statistics(units, column, shares, target) for column in values.T)
    return _summarise(np.stack([first, np.mean(others, axis=0)]), target, shares)


def _summarise(stacked: FloatArray, target: str, shares: FloatArray) -> RateResult:
    """Point estimates and standard errors of one ranking, or of two and their difference."""
    statistics = np.concatenate([stacked, stacked[:1] - stacked[1:]]) if len(stacked) == 2 else stacked
    point, replicate = statistics[:, 0], statistics[:, 1:]
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
    run_ends = np.ones(len(order), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=run_ends[:-1])
    return _Ranking(order, run_ends)


def check_target(target: str) -> None:
    """Refuse anything but AUTOC and QINI."""
    if target not in TARGETS:
        raise EvaluationError(f"`target` is {target!r}: choose one of {TARGETS}")


def check_priorities(priorities: ArrayLike | Priorities, groups: ArrayLike | None, length: int) -> FloatArray:
    """Priorities as (n, 1) or (n, 2); a `Priorities` must come from other groups than ``groups``."""
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


def check_shares(q: ArrayLike | None) -> FloatArray:
    """Shares treated, shape (Q,), in (0, 1]; .1, .2, ..., 1 when absent."""
    shares = np.arange(1, 11) / 10 if q is None else np.atleast_1d(vector("q", np.atleast_1d(np.asarray(q))))
    bad = int(((shares <= 0) | (shares > 1)).sum())
    if bad or not len(shares):
        raise EvaluationError(f"`q` has {bad} of {len(shares)} values outside (0, 1]: give shares of the units treated")
    return shares


def _draw_units(
    scores: FloatArray, sample_weights: ArrayLike | None, groups: ArrayLike | None, num_replicates: int, seed: int
) -> _Units:
    codes, num_groups = group_codes(groups, len(scores))
    weights = weights_vector(sample_weights, len(scores), codes=codes)
    members = draw_half_samples(num_groups, num_replicates, seed=seed)
    return _Units(scores, weights, sample_weights is not None, codes.astype(np.int32), members)


def _statistics(units: _Units, priority: FloatArray, shares: FloatArray, target: str) -> FloatArray:
    """[RATE, TOC(q)...] on all units, then on each half-sample, shape (1 + R, 1 + Q)."""
    ranking = rank_units(priority)
    if ranking.is_constant:
        return np.zeros((1 + len(units.members), 1 + len(shares)))
    order, run_ends = ranking.order, ranking.run_ends
    del ranking
    mean = np.average(units.scores, weights=units.weights)
    scores = units.scores[order]
    scores -= mean
    weights = units.weights[order] if units.is_weighted else units.weights
    ordered = (scores, weights, units.codes[order], run_ends)
    del order
    everyone = np.ones((1, units.members.shape[1]), dtype=np.bool_)
    return np.concatenate(
        [
            replicate_statistics(*ordered, members, shares=shares, is_autoc=target == "AUTOC")
            for members in (everyone, units.members)
        ]
    )


def _share_within_ties(weighted: FloatArray, weights: FloatArray, ranking: _Ranking) -> FloatArray:
    """Weighted mean within each tied run, along the last axis, repeated for its units."""
    sums = np.add.reduceat(weighted, ranking.ties, axis=-1)
    masses = np.add.reduceat(weights, ranking.ties, axis=-1)
    means: FloatArray = sums / np.where(masses > 0, masses, 1.0)
    return np.repeat(means, ranking.sizes, axis=-1)


def _drop_dust(values: FloatArray) -> FloatArray:
    return np.where(np.abs(values) < _ZERO, 0.0, values)
