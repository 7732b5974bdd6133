"""Is tau_hat real? The outcome model, the average effect, and the RATE of every configuration and control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from eo_cate import evaluation
from eo_cate.evaluation import (
    AteResult,
    FoldRank,
    FoldScores,
    FoldTask,
    OutcomeModel,
    Priorities,
    SequentialRate,
    TrialVectors,
)
from eo_cate.evaluation.ledger import Ledger
from eo_cate.stats.folds import MIN_GROUPS
from eo_cate.steps.context import FULL, IMAGE, Run
from eo_cate.steps.estimators import build_forest, build_ridge
from eo_cate.steps.features import WITHIN
from eo_cate.store import write_atomic
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, Trial

TARGETS = ("AUTOC", "QINI")
TOC_SHARES = np.linspace(0.05, 1.0, 20)
EQUALISED = f"{FULL}, groups equalised"
BASELINE = "baseline_outcome"
CONTROLS = ("location", f"{IMAGE}+location", "mean_colour", "random_vit", BASELINE)

Rates = dict[str, dict[str, SequentialRate]]
"""Configuration -> target -> rate."""


@dataclass(frozen=True)
class Folds:
    """The fold orders, and what every configuration, control and estimator shares in them."""

    vectors: TrialVectors
    tasks: list[FoldTask]
    scores: list[FoldScores]

    def first(self, num_orders: int) -> Folds:
        """The first fold orders only."""
        until = sum(task.order < num_orders for task in self.tasks)
        return Folds(self.vectors, self.tasks[:until], self.scores[:until])

    @property
    def design(self) -> dict[str, Any]:
        """Keyword arguments of what pools over folds."""
        return {"groups": self.vectors.groups, "sample_weights": self.vectors.weights}


@dataclass(frozen=True)
class Evaluated:
    """Everything that evaluation gives to the map and the report.

    Parameters
    ----------
    outcome : OutcomeModel
        The trial's one outcome model.
    ate : AteResult
    folds : Folds
        Shared by all estimators.
    ranked : dict
        Estimator -> configuration -> one FoldRank per task.
    shuffled : dict
        Configuration -> one FoldRank per task, with RidgeR: embeddings permuted freely, and within strata.
    rates : dict
        Estimator -> configuration -> target -> rate; the estimator ``truth`` ranks by the true effects (simulations).
    placebo : dict
        Configuration -> target -> rate: shuffled embeddings, with RidgeR.
    """

    outcome: OutcomeModel
    ate: AteResult
    folds: Folds
    ranked: dict[str, dict[str, list[FoldRank]]]
    shuffled: dict[str, list[FoldRank]]
    rates: dict[str, Rates]
    placebo: Rates


def prepare(run: Run, trial: Trial, features: Mapping[str, FeatureBlocks]) -> tuple[OutcomeModel, Folds]:
    """The outcome model, and the fold orders with their scores: all that tests and rates share."""
    vectors = TrialVectors.of(trial)
    with run.timed("outcome models"):
        outcome = evaluation.fit_outcome_model(features[FULL], vectors, **run.here)
        folds = _score(run, vectors, features[FULL])
    write_atomic(run.run_dir / "tables" / "folds.csv", _list_folds(trial, folds).to_csv(index=False).encode())
    return outcome, folds


def evaluate(
    run: Run, trial: Trial, features: Mapping[str, FeatureBlocks], outcome: OutcomeModel, folds: Folds
) -> Evaluated:
    """Fits by fold, and rates; below 40 groups there are none (METHODS.md, section 3, step 0)."""
    models = {"forest": build_forest(run.config), "ridge": build_ridge(run.config)}
    ate = _average_effect(folds.vectors, outcome)
    if not folds.tasks:
        return Evaluated(outcome, ate, folds, {}, {}, {}, {})
    own = {name: X for name, X in features.items() if not name.startswith("shuffled")}
    ranked = {}
    for estimator, model in models.items():
        with run.timed(f"fits, {estimator}"):
            ranked[estimator] = rank(run, folds, own, model, f"{estimator} by fold")
            record(run, outcome, {n: X for n, X in own.items() if n not in CONTROLS}, model[1])
    with run.timed("fits, shuffled"):
        shuffled = {name: X for name, X in features.items() if name not in own}
        placebo = rank(run, folds, shuffled, models["ridge"], "ridge, shuffled sites")
    with run.timed("rates"):
        rates = {e: pool(run, folds, r) | _pool_equalised(run, folds, r[FULL]) for e, r in ranked.items()}
        rates["ridge"] |= _rate_before(run, trial, folds, features[FULL], models["ridge"])
        if trial.true_effect is not None:
            truth = _rank_truth(trial.column(trial.true_effect), folds)
            rates["truth"] = _pool_priorities(run, folds, {"oracle": truth})
        bands = pool(run, folds, {name: r for name, r in placebo.items() if not name.startswith(WITHIN)})
    return Evaluated(outcome, ate, folds, ranked, placebo, rates, bands)


def _list_folds(trial: Trial, folds: Folds) -> pd.DataFrame:
    """Fold of every unit in every fold order, 1 to K: one column per order, named as in ``order_1``."""
    table = pd.DataFrame({"unit_id": trial.units["unit_id"]})
    for order in sorted({task.order for task in folds.tasks}):
        fold = np.ones(len(table), dtype=np.int64)
        for task in folds.tasks:
            if task.order == order:
                fold[task.test] = task.fold
        table[f"order_{order + 1}"] = fold
    return table


def _score(run: Run, vectors: TrialVectors, X: FeatureBlocks) -> Folds:
    """Draw the fold orders and score them; no fold is drawn below 40 groups."""
    settings = run.config.evaluation
    if len(np.unique(vectors.groups)) < MIN_GROUPS:
        return Folds(vectors, [], [])
    tasks = evaluation.plan_folds(
        vectors.groups,
        W=vectors.W,
        strata=vectors.strata,
        num_folds=settings.num_folds,
        num_orders=settings.num_orders,
        seed=run.config.seed,
    )
    return Folds(vectors, tasks, evaluation.score_folds(tasks, X, vectors, **run.shards))


def rank(
    run: Run,
    folds: Folds,
    configurations: Mapping[str, FeatureBlocks],
    model: tuple[CateEstimator, dict[str, Any]],
    description: str,
) -> dict[str, list[FoldRank]]:
    """Fit an estimator on every configuration and fold."""
    return evaluation.rank_folds(
        configurations,
        model[0],
        folds.tasks,
        folds.scores,
        folds.vectors,
        settings=model[1],
        description=description,
        **run.shards,
    )


def record(
    run: Run, outcome: OutcomeModel, configurations: Mapping[str, FeatureBlocks], settings: Mapping[str, Any]
) -> None:
    """Note in the run's ledger that these results were fitted against this outcome."""
    Ledger(run.store.root).record(outcome.key, configurations, settings)


def pool(
    run: Run, folds: Folds, ranked: Mapping[str, Sequence[FoldRank]], *, targets: Sequence[str] = TARGETS
) -> Rates:
    """Rates of every configuration, by target."""
    return _pool_priorities(run, folds, {n: [r.priorities for r in found] for n, found in ranked.items()}, targets)


def _pool_priorities(
    run: Run, folds: Folds, priorities: Mapping[str, Sequence[Priorities]], targets: Sequence[str] = TARGETS
) -> Rates:
    return evaluation.pool_configurations(
        priorities,
        folds.tasks,
        folds.scores,
        folds.vectors,
        targets=targets,
        q=TOC_SHARES,
        num_replicates=run.config.evaluation.num_replicates,
        **run.shards,
    )


def _rate_before(
    run: Run, trial: Trial, folds: Folds, X: FeatureBlocks, model: tuple[CateEstimator, dict[str, Any]]
) -> Rates:
    """Rates of the outcome before the programme, which it cannot have changed (METHODS.md, section 7)."""
    if trial.baseline_outcome is None:
        return {}
    vectors = replace(folds.vectors, Y=trial.column(trial.baseline_outcome))
    scores = evaluation.score_folds(folds.tasks, X, vectors, **run.shards)
    before = Folds(vectors, folds.tasks, scores)
    return pool(run, before, {BASELINE: rank(run, before, {FULL: X}, model, "ridge, outcome before")[FULL]})


def _pool_equalised(run: Run, folds: Folds, ranked: Sequence[FoldRank]) -> Rates:
    """The same rankings with every group of the same weight, as a sensitivity (METHODS.md, section 3, step 6)."""
    codes = np.unique(folds.vectors.groups, return_inverse=True)[1]
    weights = folds.vectors.weights / np.bincount(codes, weights=folds.vectors.weights)[codes]
    return pool(run, replace(folds, vectors=replace(folds.vectors, weights=weights)), {EQUALISED: ranked})


def _rank_truth(tau: FloatArray, folds: Folds) -> list[Priorities]:
    """Simulations only: the control that ranks by the true effects."""
    return [Priorities(tau[task.test], np.unique(folds.vectors.groups[task.train])) for task in folds.tasks]


def _average_effect(vectors: TrialVectors, outcome: OutcomeModel) -> AteResult:
    return evaluation.average_treatment_effect(
        vectors.Y,
        vectors.W,
        propensity=vectors.propensity,
        Y_hat=outcome.m_hat,
        tau_hat=np.full(len(vectors.Y), outcome.ATE_hat),
        sample_weights=vectors.weights,
        groups=vectors.groups,
    )
