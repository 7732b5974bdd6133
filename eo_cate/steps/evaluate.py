"""Is tau_hat real? The outcome model, the average effect, and the RATE of every configuration and control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from eo_cate import evaluation
from eo_cate.config import RunConfig
from eo_cate.errors import ConfigError
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
from eo_cate.multiscale import FORESTLESS, name_estimator
from eo_cate.stats.folds import MIN_GROUPS
from eo_cate.stats.training import FEWEST_GROUPS
from eo_cate.steps.context import FULL, IMAGE, Run
from eo_cate.steps.estimators import build_estimator, build_ridge
from eo_cate.steps.features import WITHIN
from eo_cate.store import write_atomic
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, Trial

TARGETS = ("AUTOC", "QINI")
TOC_SHARES = np.linspace(0.05, 1.0, 20)
EQUALISED = f"{FULL}, groups equalised"
BASELINE = "baseline_outcome"
NESTED = ("stack", "residual", "select")
"""Procedures that are cross-fitted as a whole, so that their forests see fewer groups than the fold holds."""
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
    map_rates : dict
        `IMAGE` -> target -> rate of the map's procedure, where there is a map that none of the estimators draws.
    """

    outcome: OutcomeModel
    ate: AteResult
    folds: Folds
    ranked: dict[str, dict[str, list[FoldRank]]]
    shuffled: dict[str, list[FoldRank]]
    rates: dict[str, Rates]
    placebo: Rates
    map_rates: Rates


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
    main = name_estimator(run.config.multiscale.procedure)
    models = {main: build_estimator(run.config), "ridge": build_ridge(run.config)}
    ate = _average_effect(folds.vectors, outcome)
    if not folds.tasks:
        return Evaluated(outcome, ate, folds, {}, {}, {}, {}, {})
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
    return Evaluated(
        outcome, ate, folds, ranked, placebo, rates, bands, _rate_map(run, folds, own[IMAGE], outcome, set(models))
    )


def _rate_map(run: Run, folds: Folds, X: FeatureBlocks, outcome: OutcomeModel, evaluated: set[str]) -> Rates:
    """The map's own model over the same folds."""
    config = run.config
    name = name_estimator(config.multiscale.map_procedure)
    if name in evaluated or (config.map is None and config.extrapolate is None):
        return {}
    with run.timed(f"fits, {name}"):
        model = build_estimator(config, config.multiscale.map_procedure)
        ranked = rank(run, folds, {IMAGE: X}, model, f"{name} by fold")
        record(run, outcome, {IMAGE: X}, model[1])
        return pool(run, folds, ranked)


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


def check_folds(config: RunConfig, trial: Trial) -> None:
    """Refuse before long work a first fold on which the evaluated procedure cannot be fitted.

    Raises
    ------
    ConfigError
        Naming the groups of the smallest first fold, and what to change.
    """
    procedure = config.multiscale.procedure
    vectors = TrialVectors.of(trial)
    tasks = _plan(config, vectors)
    if procedure == FORESTLESS or not tasks:
        return
    least = FEWEST_GROUPS + (procedure in NESTED)
    smallest = min(tasks, key=lambda task: (len(np.unique(vectors.groups[task.train])), task.order))
    found = len(np.unique(vectors.groups[smallest.train]))
    if found < least:
        fewer = "evaluation.num_folds: 3, " if smallest.fold == 2 and config.evaluation.num_folds > 3 else ""
        raise ConfigError(
            f"multiscale.procedure: {procedure} fits causal forests on {least} groups or more, and fold order "
            f"{smallest.order + 1} starts with {found} of {len(np.unique(vectors.groups))} groups (matched pairs and "
            f"strata of up to 9 groups stay in one fold); set {fewer}coarser strata, or procedure: {FORESTLESS}"
        )


def _plan(config: RunConfig, vectors: TrialVectors) -> list[FoldTask]:
    """The fold orders; none below 40 groups."""
    if len(np.unique(vectors.groups)) < MIN_GROUPS:
        return []
    return evaluation.plan_folds(
        vectors.groups,
        W=vectors.W,
        strata=vectors.strata,
        num_folds=config.evaluation.num_folds,
        num_orders=config.evaluation.num_orders,
        seed=config.seed,
    )


def _score(run: Run, vectors: TrialVectors, X: FeatureBlocks) -> Folds:
    """Draw the fold orders and score them."""
    tasks = _plan(run.config, vectors)
    return Folds(vectors, tasks, evaluation.score_folds(tasks, X, vectors, **run.shards) if tasks else [])


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
