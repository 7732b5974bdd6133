"""Paired differences of RATE on the same scores and half-samples (METHODS.md, sections 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.fold_steps import FoldRank, FoldScores, FoldTask, plan_folds, rank_fold, score_fold
from eo_cate.evaluation.pooling import (
    NULL_STD_ERR_BELOW,
    FoldRate,
    by_fold,
    check_sequences,
    interval_95,
    pool_orders,
)  # fmt: skip
from eo_cate.evaluation.rate import Priorities, check_priorities, check_target, rank_weights, rate_over_mean
from eo_cate.stats.checks import group_codes, weights_vector
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, IntArray


@dataclass(frozen=True)
class PairedContrast:
    """RATE of a first ranking minus that of a second, of the median fold order.

    Parameters
    ----------
    target : str
    estimate, std_err, ratio : float
        In the units of the outcome; ratio = estimate / std_err.
    p : float
        Two-sided normal, median over the fold orders.
    interval : (float, float)
        95 %: estimate +- t_30 std_err.
    first, second : float
        The two pooled estimates in that order, of which ``estimate`` is the difference.
    num_orders, num_groups : int
    """

    target: str
    estimate: float
    std_err: float
    ratio: float
    p: float
    interval: tuple[float, float]
    first: float
    second: float
    num_orders: int
    num_groups: int


@dataclass(frozen=True)
class RateGain:
    """What several scales add to the single scale that the training folds chose.

    Parameters
    ----------
    contrast : PairedContrast
        Multi-scale minus single-scale; unbiased, with the power of about 15 % at 150 groups: an interval that holds 0
        is the usual answer.
    chosen : dict of str to float
        Share of the folds in which each single scale had the least R-risk on the training groups.
    """

    contrast: PairedContrast
    chosen: dict[str, float]


def pool_contrast(
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    first: Sequence[Priorities],
    second: Sequence[Priorities],
    *,
    groups: ArrayLike,
    sample_weights: ArrayLike | None = None,
    target: str = "AUTOC",
    num_replicates: int = 200,
) -> PairedContrast:
    """Difference of two rankings, pooled over folds and orders as `pool_folds` pools one.

    Below 100 groups the larger of half-sample and null standard error is used in each fold, as there.

    Raises
    ------
    LeakageError
        When either ranking was trained on groups of its test rows.
    EvaluationError
        When the sequences disagree.
    """
    return _pool(tasks, scores, [first, second], groups, sample_weights, target, num_replicates)


def pool_over_mean(
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    first: Sequence[Priorities],
    others: Sequence[Sequence[Priorities]],
    *,
    groups: ArrayLike,
    sample_weights: ArrayLike | None = None,
    target: str = "AUTOC",
    num_replicates: int = 200,
) -> PairedContrast:
    """RATE of a ranking less the mean RATE of several others (permutations, say), pooled as in `pool_contrast`.

    Raises
    ------
    LeakageError, EvaluationError
        As `pool_contrast`, or without others.
    """
    if not others:
        raise EvaluationError("`others` is empty: give at least one ranking per fold to compare with")
    return _pool(tasks, scores, [first, *others], groups, sample_weights, target, num_replicates)


def _pool(
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    rankings: list[Sequence[Priorities]],
    groups: ArrayLike,
    sample_weights: ArrayLike | None,
    target: str,
    num_replicates: int,
) -> PairedContrast:
    """The first ranking against the mean of the others."""
    check_sequences(tasks, scores, *rankings)
    labels: NDArray[Any] = np.asarray(groups)
    codes, num_groups = group_codes(labels, len(labels))
    weights = weights_vector(sample_weights, len(labels))
    orders: dict[int, list[FoldRate]] = {}
    for task, score, *found in by_fold(tasks, scores, *rankings):
        inside, omega = labels[task.test], weights[task.test]
        for one in found:
            check_priorities(one, inside, len(task.test))
        columns = np.column_stack([one.values for one in found])
        result = rate_over_mean(
            score.dr_scores, columns, target=target, num_replicates=num_replicates,
            sample_weights=omega, groups=inside, seed=task.seed,
        )  # fmt: skip
        std_err = float(result.std_err[2])
        if num_groups < NULL_STD_ERR_BELOW:
            std_err = max(std_err, _null_std_err(score.dr_scores, columns, omega, codes[task.test], target))
        orders.setdefault(task.order, []).append(
            FoldRate(float(result.estimate[2]), std_err, float(omega.sum()), result)
        )
    pooled = pool_orders(orders)
    estimate, std_err = float(pooled.estimates[pooled.chosen]), float(pooled.std_errs[pooled.chosen])
    folds = orders[pooled.labels[pooled.chosen]]
    share = np.array([fold.weight for fold in folds])
    parts = [np.average([fold.result.estimate[row] for fold in folds], weights=share) for row in (0, 1)]
    return PairedContrast(
        target=target,
        estimate=estimate,
        std_err=std_err,
        ratio=float(pooled.ratios[pooled.chosen]),
        p=float(np.median(2 * stats.norm.sf(np.abs(pooled.ratios)))),
        interval=interval_95(estimate, std_err),
        first=float(parts[0]),
        second=float(parts[1]),
        num_orders=len(orders),
        num_groups=num_groups,
    )


def _null_std_err(scores: FloatArray, values: FloatArray, omega: FloatArray, codes: IntArray, target: str) -> float:
    """`null_std_err` of a difference: the rank weights are subtracted."""
    first, *others = (rank_weights(column, omega, target=target) for column in values.T)
    a = first - np.mean(others, axis=0)
    total = np.bincount(codes, weights=omega * a * (scores - np.average(scores, weights=omega)))
    num_groups = len(np.unique(codes))
    return float(np.sqrt(np.sum(total**2) * num_groups / (num_groups - 1)) / omega.sum())


def pool_gain(
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    multi: Sequence[FoldRank],
    singles: Mapping[str, Sequence[FoldRank]],
    *,
    groups: ArrayLike,
    sample_weights: ArrayLike | None = None,
    target: str = "AUTOC",
    num_replicates: int = 200,
) -> RateGain:
    """Gain of a multi-scale ranking over the single scale of least training R-risk in each fold.

    Raises
    ------
    EvaluationError
        Without single scales, or when the sequences disagree.
    """
    if not singles:
        raise EvaluationError("`singles` is empty: give at least one single-scale configuration")
    check_sequences(tasks, scores, multi, *singles.values())
    names = list(singles)
    risks = np.array([[rank.r_risk for rank in singles[name]] for name in names])
    best = risks.argmin(axis=0)
    second = [singles[names[k]][i].priorities for i, k in enumerate(best)]
    contrast = pool_contrast(
        tasks, scores, [rank.priorities for rank in multi], second,
        groups=groups, sample_weights=sample_weights, target=target, num_replicates=num_replicates,
    )  # fmt: skip
    return RateGain(contrast, {name: float((best == k).mean()) for k, name in enumerate(names)})


def rate_gain(
    estimator: CateEstimator,
    multi: FeatureBlocks | NDArray[Any],
    singles: Mapping[str, FeatureBlocks | NDArray[Any]],
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    num_folds: int = 5,
    num_orders: int = 20,
    target: str = "AUTOC",
    seed: int = 0,
    nuisance_X: FeatureBlocks | NDArray[Any] | None = None,
    num_replicates: int = 200,
) -> RateGain:
    """The honest gain of several scales over one.

    Parameters
    ----------
    multi : FeatureBlocks or (n, p)
        Features of the multi-scale configuration; also those of m_hat when ``nuisance_X`` is absent.
    singles : mapping of name to FeatureBlocks or (n, p)

    Other parameters as in `sequential_rate`.

    Raises
    ------
    EvaluationError
        On bad vectors, below 40 groups, or when predictions are not finite.
    """
    check_target(target)
    tasks = plan_folds(groups, W=W, strata=strata, num_folds=num_folds, num_orders=num_orders, seed=seed)
    shared = multi if nuisance_X is None else nuisance_X
    scores = [
        score_fold(
            task, shared, Y, W, propensity=propensity, groups=groups, strata=strata, sample_weights=sample_weights
        )
        for task in tasks
    ]

    def rank(X: FeatureBlocks | NDArray[Any]) -> list[FoldRank]:
        return [
            rank_fold(
                estimator, X, W, task=task, scores=fold, propensity=propensity, groups=groups,
                sample_weights=sample_weights,
            )
            for task, fold in zip(tasks, scores, strict=True)
        ]  # fmt: skip

    return pool_gain(
        tasks, scores, rank(multi), {name: rank(X) for name, X in singles.items()},
        groups=groups, sample_weights=sample_weights, target=target, num_replicates=num_replicates,
    )  # fmt: skip
