"""How close estimated effects come to true ones, and the RATE ratio of one fold order without more than that needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from eo_cate import evaluation
from eo_cate.evaluation import FoldScores, FoldTask, Priorities, TrialVectors
from eo_cate.stats.folds import group_folds
from eo_cate.stats.training import TrainingUnits
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray

NUM_FOLDS = 5


def r_squared(truth: FloatArray, tau_hat: FloatArray) -> float:
    """1 - sum (truth - tau_hat)^2 / sum (truth - mean)^2."""
    return float(1 - np.sum((truth - tau_hat) ** 2) / np.sum((truth - truth.mean()) ** 2))


def oracle_share(truth: FloatArray, tau_hat: FloatArray) -> float:
    """AUTOC of the true effects ranked by tau_hat, over their AUTOC ranked by themselves."""
    best, found = (evaluation.rate(truth, by, num_replicates=2).estimate[0] for by in (truth, tau_hat))
    return float(found / best)


def measure_effects(truth: FloatArray, tau_hat: FloatArray) -> dict[str, float]:
    """R2, share of the oracle's AUTOC (share) and rank correlation (rank) of estimated effects."""
    return {
        "R2": r_squared(truth, tau_hat),
        "share": oracle_share(truth, tau_hat),
        "rank": float(spearmanr(truth, tau_hat).statistic),
    }


@dataclass(frozen=True)
class ScoredFolds:
    """One fold order of a trial: what every procedure is judged on.

    ``tasks`` and ``scores`` are those of the sequential folds; ``crossed`` and ``crossed_scores`` train on all folds
    but the one that is tested.
    """

    vectors: TrialVectors
    tasks: list[FoldTask]
    scores: list[FoldScores]
    crossed: list[FoldTask]
    crossed_scores: list[FoldScores]

    @classmethod
    def of(cls, vectors: TrialVectors, nuisance_X: FeatureBlocks, *, seed: int, crossed: bool = False) -> ScoredFolds:
        """Draw the folds and score them, m_hat on ``nuisance_X``; cross-fitting folds only when asked for."""
        tasks = evaluation.plan_folds(
            vectors.groups, W=vectors.W, strata=vectors.strata, num_folds=NUM_FOLDS, num_orders=1, seed=seed
        )
        others = _cross_tasks(vectors, seed) if crossed else []
        options: dict[str, Any] = {
            "propensity": vectors.propensity, "groups": vectors.groups, "strata": vectors.strata,
        }  # fmt: skip
        scored = [evaluation.score_fold(t, nuisance_X, vectors.Y, vectors.W, **options) for t in [*tasks, *others]]
        return cls(vectors, tasks, scored[: len(tasks)], others, scored[len(tasks) :])

    def ratio(self, model: CateEstimator, X: FeatureBlocks) -> float:
        """RATE ratio of the sequential folds."""
        ranked = [self._rank(model, X, *pair) for pair in zip(self.tasks, self.scores, strict=True)]
        return float(evaluation.pool_folds(self.tasks, self.scores, ranked, groups=self.vectors.groups).ratio)

    def cross_fit(self, model: CateEstimator, X: FeatureBlocks) -> FloatArray:
        """tau_hat (n,) of every unit by the fit on the other folds."""
        tau_hat = np.full(len(self.vectors.Y), np.nan)
        for task, scores in zip(self.crossed, self.crossed_scores, strict=True):
            tau_hat[task.test] = self._rank(model, X, task, scores).values
        return tau_hat

    def _rank(self, model: CateEstimator, X: FeatureBlocks, task: FoldTask, scores: FoldScores) -> Priorities:
        """Priorities of the test rows. `evaluation.rank_fold` gives an R-risk too, which costs more fits."""
        vectors, train = self.vectors, task.train
        units = TrainingUnits.of(
            X.take(train), scores.Y_residual, vectors.W[train],
            propensity=vectors.propensity[train], groups=vectors.groups[train],
        )  # fmt: skip
        return Priorities(units.fit(model).predict(X.take(task.test)), np.unique(vectors.groups[train]))


def _cross_tasks(vectors: TrialVectors, seed: int) -> list[FoldTask]:
    folds = group_folds(vectors.groups, W=vectors.W, strata=vectors.strata, num_folds=NUM_FOLDS, seed=[seed, 0])
    return [
        FoldTask(
            order=0, fold=k + 1, train=np.flatnonzero(folds != k).astype(np.int64),
            test=np.flatnonzero(folds == k).astype(np.int64), seed=seed,
        )
        for k in range(NUM_FOLDS)
    ]  # fmt: skip
