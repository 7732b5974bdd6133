"""Common faults of evaluation, built on purpose: the study must see each of them reject far too often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from eo_cate.estimators import RidgeR
from eo_cate.evaluation.autoc import autoc_columns
from eo_cate.evaluation.flips import FlipProblem, pose_flips
from eo_cate.evaluation.rate import rate
from eo_cate.evaluation.scores import doubly_robust_scores
from eo_cate.simulation.clustered import ClusteredTrial
from eo_cate.stats.folds import flip_units, group_folds
from eo_cate.stats.nuisances import fit_nuisances
from eo_cate.stats.site_rows import average_rows, find_rows
from eo_cate.types import FeatureBlocks, FloatArray, IntArray

LEVEL = 0.05
NUM_DRAWS = 199
NUM_FOLDS = 5


def averaged_k_fold(trial: ClusteredTrial, seed: int) -> dict[str, float]:
    """RATE of K-fold cross-validation, the folds averaged as if they were independent."""
    folds = group_folds(trial.village, W=trial.W, strata=trial.strata, num_folds=NUM_FOLDS, seed=seed)
    return {"averaged K-fold": _average_folds(trial, folds, groups=trial.village)}


def household_split(trial: ClusteredTrial, seed: int) -> dict[str, float]:
    """The usual cross-validation: folds and standard errors by household, pixels of the village, Y less its mean."""
    n = len(trial.Y)
    folds = group_folds(np.arange(n), W=trial.W, num_folds=NUM_FOLDS, seed=seed)
    return {"household split": _average_folds(trial, folds, groups=np.arange(n), centred=True)}


def iid_std_err(trial: ClusteredTrial, seed: int) -> dict[str, float]:
    """Folds by village, standard errors by household."""
    folds = group_folds(trial.village, W=trial.W, strata=trial.strata, num_folds=NUM_FOLDS, seed=seed)
    return {"iid standard errors": _sequential(trial, folds, groups=np.arange(len(trial.Y)))}


def village_flips_in_pairs(trial: ClusteredTrial, seed: int) -> dict[str, float]:
    """Matched pairs: the pair left out, once with pairs flipped (right) and once with villages flipped (wrong)."""
    problem = _pose(trial)
    pair = flip_units(trial.village, trial.strata)
    return {
        "pair left out and flipped": _flip_test(trial, problem, out=pair, flip=pair, seed=seed),
        "pair left out, village flipped": _flip_test(trial, problem, out=pair, flip=problem.codes, seed=seed),
    }


def household_flips(trial: ClusteredTrial, seed: int) -> dict[str, float]:
    """The village left out, households flipped, W randomised by village."""
    problem = _pose(trial)
    flips = np.arange(len(trial.Y))
    return {"household flips": _flip_test(trial, problem, out=problem.codes, flip=flips, seed=seed)}


def _average_folds(trial: ClusteredTrial, folds: IntArray, *, groups: IntArray, centred: bool = False) -> float:
    pairs = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(NUM_FOLDS)]
    return _pooled_decision(trial, pairs, groups, centred=centred)


def _sequential(trial: ClusteredTrial, folds: IntArray, *, groups: IntArray) -> float:
    pairs = [(np.flatnonzero(folds < k), np.flatnonzero(folds == k)) for k in range(1, NUM_FOLDS)]
    return _pooled_decision(trial, pairs, groups)


def _pooled_decision(
    trial: ClusteredTrial, pairs: list[tuple[IntArray, IntArray]], groups: IntArray, *, centred: bool = False
) -> float:
    """Reject by the pooled estimate over sqrt(sum v_k^2 SE_k^2), one-sided; everything by ``groups``.

    ``centred``: the outcome model has no features.
    """
    X, e = trial.everything(), trial.propensity
    model_X = FeatureBlocks.from_array(np.zeros((len(X), 1))) if centred else X
    estimate, variance, total = 0.0, 0.0, sum(len(test) for _, test in pairs)
    for train, test in pairs:
        model = fit_nuisances(model_X.take(train), trial.Y[train], trial.W[train], propensity=e, groups=groups[train])
        fitted = RidgeR().fit(X.take(train), trial.Y[train] - model.m_hat, trial.W[train], propensity=e)
        scores = doubly_robust_scores(
            trial.Y[test], trial.W[test], propensity=e, Y_hat=model.predict(model_X.take(test)), tau_hat=model.ATE_hat
        )
        found = rate(scores, fitted.predict(X.take(test)), groups=groups[test], seed=len(train))
        share = len(test) / total
        estimate += share * found.estimate[0]
        variance += (share * found.std_err[0]) ** 2
    return float(stats.norm.sf(estimate / np.sqrt(variance)) <= LEVEL)


def _pose(trial: ClusteredTrial) -> FlipProblem:
    design: dict[str, Any] = {"propensity": trial.propensity, "groups": trial.village, "strata": trial.strata}
    model = fit_nuisances(trial.everything(), trial.Y, trial.W, **design)
    return pose_flips(trial.Y, trial.W, Y_hat=model.m_hat, ATE_hat=model.ATE_hat, **design)


def _flip_test(trial: ClusteredTrial, problem: FlipProblem, *, out: IntArray, flip: IntArray, seed: int) -> float:
    """The refit test with any block left out and any unit flipped."""
    X = trial.everything()
    rows = find_rows(X)
    signs = np.random.default_rng([seed, 5]).integers(0, 2, (int(flip.max()) + 1, NUM_DRAWS)) * 2.0 - 1.0
    draws: FloatArray = rows.mean(problem.u[:, None] * signs[flip])
    U, weights = np.column_stack([rows.mean(problem.u), draws]), rows.sum(problem.weights)
    predictions = RidgeR().leave_out_predictions(average_rows(X, rows), U, flip_unit=out[rows.first], weights=weights)
    found = autoc_columns(U, predictions, weights)
    return float((1 + (found[1:] >= found[0]).sum()) / (NUM_DRAWS + 1) <= LEVEL)


FAULTS: dict[str, Callable[[ClusteredTrial, int], dict[str, float]]] = {
    "averaged_k_fold": averaged_k_fold,
    "household_split": household_split,
    "iid_std_err": iid_std_err,
    "village_flips_in_pairs": village_flips_in_pairs,
    "household_flips": household_flips,
}
