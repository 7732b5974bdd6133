"""Sequential folds: a RATE ratio whose rules never see the groups that they are judged on (METHODS.md, section 3)."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from eo_cate.evaluation.fold_steps import plan_folds, rank_fold, score_fold
from eo_cate.evaluation.pooling import SequentialRate, pool_folds
from eo_cate.evaluation.rate import check_target
from eo_cate.types import CateEstimator, FeatureBlocks


def sequential_rate(
    estimator: CateEstimator,
    X: FeatureBlocks | NDArray[Any],
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
) -> SequentialRate:
    """RATE ratio of one pre-specified configuration.

    Parameters
    ----------
    estimator : CateEstimator
        Copies of it are fitted on Y - m_hat.
    X : FeatureBlocks or (n, p)
        The configuration's features.
    Y, W : (n,)
        Outcome, and treatment in {0, 1}.
    propensity : (n,) or scalar
    groups : (n,) labels
        Indivisible blocks: randomisation cluster and site, see `connected_groups`.
    strata : (n,) labels, optional
    sample_weights : (n,), optional
    num_folds, num_orders : int
        With fewer than 12 groups per fold 3 folds are used.
    target : {"AUTOC", "QINI"}
    seed : int
    nuisance_X : FeatureBlocks or (n, p), optional
        Features of m_hat, the same for every configuration (all scales and covariates); X when absent.
    num_replicates : int

    Returns
    -------
    SequentialRate

    Raises
    ------
    EvaluationError
        On bad vectors, below 40 groups, or when the estimator's predictions are not finite.
    """
    check_target(target)
    tasks = plan_folds(groups, W=W, strata=strata, num_folds=num_folds, num_orders=num_orders, seed=seed)
    shared = X if nuisance_X is None else nuisance_X
    scores, priorities = [], []
    for task in tasks:
        fold = score_fold(
            task, shared, Y, W, propensity=propensity, groups=groups, strata=strata, sample_weights=sample_weights
        )
        scores.append(fold)
        priorities.append(
            rank_fold(
                estimator, X, W, task=task, scores=fold, propensity=propensity, groups=groups,
                sample_weights=sample_weights,
            ).priorities
        )  # fmt: skip
    return pool_folds(
        tasks, scores, priorities, groups=groups, sample_weights=sample_weights, target=target,
        num_replicates=num_replicates,
    )  # fmt: skip
