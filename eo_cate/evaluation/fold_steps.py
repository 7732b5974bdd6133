"""The steps of sequential folds: plan, score, rank (METHODS.md, section 3). Pure and picklable, one call a shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.rate import Priorities
from eo_cate.evaluation.scores import doubly_robust_scores
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.folds import choose_num_folds, group_folds
from eo_cate.stats.nuisances import fit_nuisances
from eo_cate.stats.training import TrainingUnits, take_rows
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, IntArray, as_blocks


@dataclass(frozen=True)
class FoldTask:
    """One step of one fold order: learn on folds 1..k-1, rank fold k.

    Parameters
    ----------
    order : int
        Fold order, from 0.
    fold : int
        k, from 2 to K.
    train, test : int64
        Rows of the units.
    seed : int
        Seed of the half-samples: the same for every configuration.
    """

    order: int
    fold: int
    train: IntArray
    test: IntArray
    seed: int


@dataclass(frozen=True)
class FoldScores:
    """What every configuration and control shares in one `FoldTask`.

    Parameters
    ----------
    Y_residual : (n_train,) float64
        Y - m_hat at the training rows, m_hat learnt from the other training groups.
    dr_scores : (n_test,) float64
        Gamma at the test rows, m_hat and tau_hat = ATE_hat from the training rows.
    Y_hat : (n_test,) float64
        m_hat at the test rows, from the training rows.
    ATE_hat : float
        Of the training rows.
    """

    Y_residual: FloatArray
    dr_scores: FloatArray
    Y_hat: FloatArray
    ATE_hat: float


def plan_folds(
    groups: ArrayLike,
    *,
    W: ArrayLike,
    strata: ArrayLike | None = None,
    num_folds: int = 5,
    num_orders: int = 20,
    seed: int = 0,
) -> list[FoldTask]:
    """Draw the fold orders: (K - 1) tasks for each, by order and fold.

    Raises
    ------
    EvaluationError
        Below 40 groups, fewer than one order, or when an arm is missing from a fold.
    """
    if num_orders < 1:
        raise EvaluationError(f"`num_orders` is {num_orders}: at least 1 fold order is needed, 20 is usual")
    _, num_groups = group_codes(groups, len(np.asarray(groups)))
    num_folds = choose_num_folds(num_groups, num_folds)
    tasks = []
    for order in range(num_orders):
        folds = group_folds(groups, W=W, strata=strata, num_folds=num_folds, seed=[seed, order])
        for k in range(2, num_folds + 1):
            tasks.append(
                FoldTask(
                    order=order,
                    fold=k,
                    train=np.flatnonzero(folds < k - 1).astype(np.int64),
                    test=np.flatnonzero(folds == k - 1).astype(np.int64),
                    seed=int(np.random.SeedSequence([seed, order, k]).generate_state(1)[0]),
                )
            )
    return tasks


def score_fold(
    task: FoldTask,
    nuisance_X: FeatureBlocks | NDArray[Any],
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
) -> FoldScores:
    """Fit m_hat and ATE_hat on the training rows, score the test rows. Vectors are of all units.

    Raises
    ------
    EvaluationError
        On bad vectors.
    """
    blocks = as_blocks(nuisance_X)
    n = len(blocks)
    y, w, e = vector("Y", Y, length=n), treatment_vector(W, n), propensity_vector(propensity, n)
    train, test = task.train, task.test
    labels = None if strata is None else np.asarray(strata)
    fit = fit_nuisances(
        blocks.take(train),
        y[train],
        w[train],
        propensity=e[train],
        groups=group_codes(groups, n)[0][train],
        strata=None if labels is None else labels[train],
        sample_weights=weights_vector(sample_weights, n)[train],
    )
    m_hat = fit.predict(blocks.take(test), strata=None if labels is None else labels[test])
    dr_scores = doubly_robust_scores(y[test], w[test], propensity=e[test], Y_hat=m_hat, tau_hat=fit.ATE_hat)
    return FoldScores(y[train] - fit.m_hat, dr_scores, m_hat, fit.ATE_hat)


@dataclass(frozen=True)
class FoldRank:
    """One configuration in one `FoldTask`.

    Parameters
    ----------
    priorities : Priorities
        Of the test rows, (n_test,).
    r_risk : float
        Weighted mean of (Y - m_hat - (W - e) tau_hat)^2 over the training rows, tau_hat learnt without the row's
        group: what a model may be chosen by (METHODS.md, section 6).
    """

    priorities: Priorities
    r_risk: float


def rank_fold(
    estimator: CateEstimator,
    X: FeatureBlocks | NDArray[Any],
    W: ArrayLike,
    *,
    task: FoldTask,
    scores: FoldScores,
    propensity: ArrayLike,
    groups: ArrayLike,
    sample_weights: ArrayLike | None = None,
) -> FoldRank:
    """Fit a copy of the estimator on the training rows and rank the test rows.

    The outcome given to it is Y - m_hat, which has the same tau: it needs no outcome model of its own.

    Raises
    ------
    EvaluationError
        When predictions are NaN, infinite or of another length.
    """
    n = len(X)
    train, test = task.train, task.test
    units = TrainingUnits(
        X=take_rows(X, train),
        Y=scores.Y_residual,
        W=treatment_vector(W, n)[train],
        propensity=propensity_vector(propensity, n)[train],
        sample_weights=None if sample_weights is None else weights_vector(sample_weights, n)[train],
        groups=group_codes(groups, n)[0][train],
    )
    fitted = units.fit(estimator)
    values = _check_predictions(fitted.predict(take_rows(X, test)), estimator, task)
    residual = units.residual(units.honest_effects(estimator, fitted, seed=task.seed, allow_gaps=True))
    seen = np.isfinite(residual)
    omega = None if units.sample_weights is None else units.sample_weights[seen]
    r_risk = float(np.average(residual[seen] ** 2, weights=omega)) if seen.any() else np.inf
    return FoldRank(Priorities(values, np.unique(np.asarray(groups)[train])), r_risk)


def _check_predictions(predicted: Any, estimator: CateEstimator, task: FoldTask) -> FloatArray:
    values = np.asarray(predicted, dtype=np.float64)
    name = type(estimator).__name__
    if values.shape != task.test.shape:
        raise EvaluationError(f"{name}.predict gave {values.shape}, {task.test.shape} is needed")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise EvaluationError(
            f"{name}.predict gave {bad} NaN or infinite values of {len(values)} in fold {task.fold}: impute the "
            "features or choose an estimator that takes missing values"
        )
    return values
