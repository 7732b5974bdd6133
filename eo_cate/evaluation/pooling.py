"""Pool the folds of each order, then report the median order (METHODS.md, section 3, steps 2 to 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.fold_steps import FoldScores, FoldTask
from eo_cate.evaluation.rate import Priorities, RateResult, null_std_err, rate
from eo_cate.stats.checks import group_codes, weights_vector
from eo_cate.types import FloatArray

NULL_STD_ERR_BELOW = 100
INTERVAL_DF = 30


@dataclass(frozen=True)
class SequentialRate:
    """RATE of rules trained on 1..K-1 folds, pooled over the folds that they rank: a conservative figure.

    Parameters
    ----------
    target : str
    estimate, std_err, ratio : float
        Of the median fold order (``order``): the ceil(num_orders / 2)-th smallest ratio = estimate / std_err.
    p : float
        Median over the orders of the one-sided normal p.
    p_doubled : float
        min(1, 2 p): the version with a proof under dependence between orders.
    interval : (float, float)
        95 %: estimate +- t_30 std_err.
    num_folds, num_orders, num_groups : int
    order : int
        The fold order reported.
    q, toc, toc_std_err : (Q,) float64
        TOC of that order, pooled as the estimate; half-sample standard errors.
    order_estimates, order_std_errs, order_ratios, order_p : (num_orders,) float64
    """

    target: str
    estimate: float
    std_err: float
    ratio: float
    p: float
    p_doubled: float
    interval: tuple[float, float]
    num_folds: int
    num_orders: int
    num_groups: int
    order: int
    q: FloatArray
    toc: FloatArray
    toc_std_err: FloatArray
    order_estimates: FloatArray
    order_std_errs: FloatArray
    order_ratios: FloatArray
    order_p: FloatArray


def pool_folds(
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    priorities: Sequence[Priorities | FloatArray],
    *,
    groups: ArrayLike,
    sample_weights: ArrayLike | None = None,
    target: str = "AUTOC",
    q: ArrayLike | None = None,
    num_replicates: int = 200,
) -> SequentialRate:
    """Pool the folds of each order, then report the median order.

    Parameters
    ----------
    tasks, scores, priorities : sequences of equal length
        From `plan_folds`, `score_fold` and `rank_fold`, in any common order.
    groups, sample_weights : (n,)
        Of all units.

    Returns
    -------
    SequentialRate

    Raises
    ------
    LeakageError
        When priorities were trained on groups of their test rows.
    EvaluationError
        When the sequences disagree.
    """
    check_sequences(tasks, scores, priorities)
    labels: NDArray[Any] = np.asarray(groups)
    num_groups = group_codes(labels, len(labels))[1]
    weights = weights_vector(sample_weights, len(labels))
    orders: dict[int, list[FoldRate]] = {}
    for task, score, ranking in by_fold(tasks, scores, priorities):
        inside, omega = labels[task.test], weights[task.test]
        fold = rate(
            score.dr_scores, ranking, target=target, q=q, num_replicates=num_replicates,
            sample_weights=omega, groups=inside, seed=task.seed,
        )  # fmt: skip
        std_err = float(fold.std_err[0])
        if num_groups < NULL_STD_ERR_BELOW:
            values = ranking.values if isinstance(ranking, Priorities) else ranking
            under_null = null_std_err(score.dr_scores, values, target=target, sample_weights=omega, groups=inside)
            std_err = max(std_err, under_null)
        orders.setdefault(task.order, []).append(FoldRate(float(fold.estimate[0]), std_err, float(omega.sum()), fold))
    pooled = pool_orders(orders)
    estimate, std_err = float(pooled.estimates[pooled.chosen]), float(pooled.std_errs[pooled.chosen])
    p_values = stats.norm.sf(pooled.ratios)
    p = float(np.median(p_values))
    folds = orders[pooled.labels[pooled.chosen]]
    toc, toc_std_err = _pool_toc(folds)
    return SequentialRate(
        target=target,
        estimate=estimate,
        std_err=std_err,
        ratio=float(pooled.ratios[pooled.chosen]),
        p=p,
        p_doubled=min(1.0, 2 * p),
        interval=interval_95(estimate, std_err),
        num_folds=len(folds) + 1,
        num_orders=len(orders),
        num_groups=num_groups,
        order=pooled.labels[pooled.chosen],
        q=folds[0].result.q,
        toc=toc,
        toc_std_err=toc_std_err,
        order_estimates=pooled.estimates,
        order_std_errs=pooled.std_errs,
        order_ratios=pooled.ratios,
        order_p=p_values,
    )


@dataclass(frozen=True)
class FoldRate:
    """Estimate of one fold, the standard error used for it, its weight in the pool, and the RATE it comes from."""

    estimate: float
    std_err: float
    weight: float
    result: RateResult


@dataclass(frozen=True)
class PooledOrders:
    """Figures per fold order, (num_orders,) each, and the place of the order that is reported."""

    labels: tuple[int, ...]
    estimates: FloatArray
    std_errs: FloatArray
    ratios: FloatArray
    chosen: int


def pool_orders(orders: dict[int, list[FoldRate]]) -> PooledOrders:
    """Sum v_k estimate_k and sqrt(sum v_k^2 SE_k^2) of each order; reported: the ceil(half)-th smallest ratio.

    Raises
    ------
    EvaluationError
        When orders have unequal numbers of folds.
    """
    if len({len(folds) for folds in orders.values()}) > 1:
        counts = {order: len(folds) for order, folds in orders.items()}
        raise EvaluationError(f"orders have unequal numbers of folds {counts}: pool complete orders only")
    pooled = [_pool_order(folds) for folds in orders.values()]
    estimates, std_errs = np.array([p[0] for p in pooled]), np.array([p[1] for p in pooled])
    # A ranking with one distinct priority has estimate and standard error 0: no evidence, ratio 0.
    ratios = np.divide(estimates, std_errs, out=np.zeros_like(estimates), where=std_errs > 0)
    chosen = int(np.argsort(ratios, kind="stable")[(len(ratios) + 1) // 2 - 1])
    return PooledOrders(tuple(orders), estimates, std_errs, ratios, chosen)


def interval_95(estimate: float, std_err: float) -> tuple[float, float]:
    """Estimate +- t_30 std_err."""
    half_width = float(stats.t.ppf(0.975, INTERVAL_DF)) * std_err
    return estimate - half_width, estimate + half_width


def check_sequences(*sequences: Sequence[Any]) -> None:
    """Refuse tasks, scores and priorities of different lengths, or none.

    Raises
    ------
    EvaluationError
        Naming the lengths.
    """
    lengths = [len(sequence) for sequence in sequences]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise EvaluationError(f"tasks, scores and priorities are {lengths} long: give one of each per fold")


def by_fold(tasks: Sequence[FoldTask], *others: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Tasks and what belongs to them, by order and fold."""
    places = sorted(range(len(tasks)), key=lambda i: (tasks[i].order, tasks[i].fold))
    return [(tasks[i], *(other[i] for other in others)) for i in places]


def _fold_weights(folds: list[FoldRate]) -> FloatArray:
    mass = np.array([fold.weight for fold in folds])
    share: FloatArray = mass / mass.sum()
    return share


def _pool_order(folds: list[FoldRate]) -> tuple[float, float]:
    """Pooled estimate sum v_k AUTOC_k and standard error sqrt(sum v_k^2 SE_k^2)."""
    v = _fold_weights(folds)
    estimate = v @ np.array([fold.estimate for fold in folds])
    return float(estimate), float(np.linalg.norm(v * np.array([fold.std_err for fold in folds])))


def _pool_toc(folds: list[FoldRate]) -> tuple[FloatArray, FloatArray]:
    v = _fold_weights(folds)
    toc: FloatArray = v @ np.stack([fold.result.toc[0] for fold in folds])
    errors = np.stack([fold.result.toc_std_err[0] for fold in folds])
    toc_std_err: FloatArray = np.linalg.norm(v[:, None] * errors, axis=0)
    return toc, toc_std_err
