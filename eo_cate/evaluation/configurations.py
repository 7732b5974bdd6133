"""One outcome model, and many configurations on the same folds and scores: shards that are stored as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.evaluation.fold_steps import FoldRank, FoldScores, FoldTask, rank_fold, score_fold
from eo_cate.evaluation.pooling import SequentialRate, pool_folds
from eo_cate.evaluation.rate import Priorities
from eo_cate.executor import Executor
from eo_cate.shards import compute_stored
from eo_cate.stats.nuisances import fit_nuisances
from eo_cate.store import Store, digest
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, IntArray, Trial

VERSION = 3


@dataclass(frozen=True)
class TrialVectors:
    """All that a trial gives to estimators and scores, (n,) each: what a shard carries in place of geometries."""

    Y: FloatArray
    W: FloatArray
    propensity: FloatArray
    weights: FloatArray
    groups: IntArray
    strata: IntArray

    @classmethod
    def of(cls, trial: Trial) -> TrialVectors:
        """The vectors of a trial."""
        Y, W, propensity, weights = (trial.column(c) for c in ("outcome", "treatment", "propensity", "weight"))
        return cls(Y, W, propensity, weights, trial.groups, trial.strata)

    @property
    def key(self) -> str:
        """Content address."""
        return digest(self.Y, self.W, self.propensity, self.weights, self.groups, self.strata)


@dataclass(frozen=True)
class OutcomeModel:
    """m_hat and ATE_hat of a whole trial.

    Parameters
    ----------
    m_hat : (n,) float64
        E[Y | x] without the effect, learnt from the other groups.
    ATE_hat : float
        Average effect in the ridge; the reported one comes from DR scores.
    key : str
        Content address.
    """

    m_hat: FloatArray
    ATE_hat: float
    key: str


@dataclass(frozen=True)
class _OutcomeShard:
    X: FeatureBlocks
    vectors: TrialVectors


@dataclass(frozen=True)
class _ScoreShard:
    task: FoldTask
    X: FeatureBlocks
    vectors: TrialVectors


@dataclass(frozen=True)
class _RankShard:
    """One configuration over the folds of one order."""

    tasks: list[FoldTask]
    X: FeatureBlocks
    vectors: TrialVectors
    scores: list[FoldScores]
    estimator: CateEstimator


@dataclass(frozen=True)
class _PoolShard:
    tasks: list[FoldTask]
    scores: list[FoldScores]
    priorities: list[Priorities]
    vectors: TrialVectors
    targets: tuple[str, ...]
    q: FloatArray
    num_replicates: int


def fit_outcome_model(
    X: FeatureBlocks, vectors: TrialVectors, *, store: Store, executor: Executor, progress: bool = True
) -> OutcomeModel:
    """The one outcome model of a trial, on all its units: `fit_nuisances`, stored (METHODS.md, section 3, step 1)."""
    key = Store.key("outcome", VERSION, blocks_key(X), vectors.key)
    found = compute_stored(
        _fit_outcome, [_OutcomeShard(X, vectors)], [key], "outcome",
        store=store, executor=executor, description="outcome model", progress=progress,
    )[0]  # fmt: skip
    return OutcomeModel(found["m_hat"], float(found["ATE_hat"]), key)


def score_folds(
    tasks: Sequence[FoldTask],
    nuisance_X: FeatureBlocks,
    vectors: TrialVectors,
    *,
    store: Store,
    executor: Executor,
    progress: bool = True,
) -> list[FoldScores]:
    """`score_fold` of every task: residuals and DR scores that all configurations share."""
    shards = [_ScoreShard(task, nuisance_X, vectors) for task in tasks]
    shared = (blocks_key(nuisance_X), vectors.key)
    keys = [Store.key("scores", VERSION, *shared, task.train, task.test) for task in tasks]
    found = compute_stored(
        _score, shards, keys, "scores", store=store, executor=executor, description="outcome models", progress=progress
    )
    return [FoldScores(f["Y_residual"], f["dr_scores"], f["Y_hat"], float(f["ATE_hat"])) for f in found]


def rank_folds(
    configurations: Mapping[str, FeatureBlocks],
    estimator: CateEstimator,
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    vectors: TrialVectors,
    *,
    settings: Mapping[str, Any],
    store: Store,
    executor: Executor,
    description: str,
    progress: bool = True,
) -> dict[str, list[FoldRank]]:
    """`rank_fold` of every configuration and task; a shard is a configuration in one fold order.

    Parameters
    ----------
    configurations : mapping of name to FeatureBlocks
    estimator : CateEstimator
        Copies of it are fitted; ``settings`` must name all that determines its predictions: they are its key.
    tasks, scores : sequences of equal length
        Whole fold orders, one after the other.

    Returns
    -------
    dict of name -> list of FoldRank, one per task
    """
    orders = [[i for i, task in enumerate(tasks) if task.order == o] for o in sorted({t.order for t in tasks})]
    pairs = [(name, order) for name in configurations for order in orders]
    shards = [
        _RankShard([tasks[i] for i in order], configurations[name], vectors, [scores[i] for i in order], estimator)
        for name, order in pairs
    ]
    features = {name: blocks_key(X) for name, X in configurations.items()}
    shared = (dict(settings), vectors.key)
    folds = [
        digest(*(part for i in order for part in (tasks[i].train, tasks[i].test, tasks[i].seed))) for order in orders
    ]
    residuals = [digest(*(scores[i].Y_residual for i in order)) for order in orders]
    keys = [
        Store.key("rank", VERSION, *shared, features[name], folds[k], residuals[k])
        for name in configurations
        for k in range(len(orders))
    ]
    found = compute_stored(
        _rank, shards, keys, "rank", store=store, executor=executor, description=description, progress=progress
    )
    ranked: dict[str, list[FoldRank]] = {name: [] for name in configurations}
    for (name, order), values in zip(pairs, found, strict=True):
        for place, i in enumerate(order):
            priorities = Priorities(values[f"priorities_{place}"], np.unique(vectors.groups[tasks[i].train]))
            ranked[name].append(FoldRank(priorities, float(values["r_risk"][place])))
    return ranked


def pool_configurations(
    ranked: Mapping[str, Sequence[Priorities]],
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    vectors: TrialVectors,
    *,
    targets: Sequence[str],
    q: FloatArray,
    num_replicates: int,
    store: Store,
    executor: Executor,
    progress: bool = True,
) -> dict[str, dict[str, SequentialRate]]:
    """`pool_folds` of every configuration and target; a shard is a configuration.

    Returns
    -------
    dict of name -> dict of target -> SequentialRate
    """
    shards = [
        _PoolShard(list(tasks), list(scores), list(found), vectors, tuple(targets), q, num_replicates)
        for found in ranked.values()
    ]
    folds = digest(*(part for task in tasks for part in (task.order, task.fold, task.seed, task.test)))
    shared = (vectors.key, folds, digest(*(score.dr_scores for score in scores)), list(targets), q, num_replicates)
    keys = [Store.key("pool", VERSION, *shared, *(p.values for p in shard.priorities)) for shard in shards]
    found = compute_stored(
        _pool, shards, keys, "pool", store=store, executor=executor, description="rates", progress=progress
    )
    return {
        name: {target: _rate_from_arrays(arrays, target) for target in targets}
        for name, arrays in zip(ranked, found, strict=True)
    }


def _pool(shard: _PoolShard) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for target in shard.targets:
        found = pool_folds(
            shard.tasks, shard.scores, shard.priorities,
            groups=shard.vectors.groups, sample_weights=shard.vectors.weights, target=target, q=shard.q,
            num_replicates=shard.num_replicates,
        )  # fmt: skip
        arrays |= {f"{target} {field.name}": np.asarray(getattr(found, field.name)) for field in fields(found)}
    return arrays


def _rate_from_arrays(arrays: Mapping[str, NDArray[Any]], target: str) -> SequentialRate:
    values: dict[str, Any] = {f.name: arrays[f"{target} {f.name}"] for f in fields(SequentialRate)}
    plain = {name: value.item() if value.ndim == 0 else value for name, value in values.items()}
    return SequentialRate(**(plain | {"interval": tuple(values["interval"].tolist())}))


def _fit_outcome(shard: _OutcomeShard) -> dict[str, NDArray[Any]]:
    v = shard.vectors
    fit = fit_nuisances(
        shard.X, v.Y, v.W, propensity=v.propensity, groups=v.groups, strata=v.strata, sample_weights=v.weights
    )
    return {"m_hat": fit.m_hat, "ATE_hat": np.array(fit.ATE_hat)}


def _score(shard: _ScoreShard) -> dict[str, NDArray[Any]]:
    v = shard.vectors
    scores = score_fold(
        shard.task, shard.X, v.Y, v.W,
        propensity=v.propensity, groups=v.groups, strata=v.strata, sample_weights=v.weights,
    )  # fmt: skip
    return {
        "Y_residual": scores.Y_residual,
        "dr_scores": scores.dr_scores,
        "Y_hat": scores.Y_hat,
        "ATE_hat": np.array(scores.ATE_hat),
    }


def _rank(shard: _RankShard) -> dict[str, FloatArray]:
    v = shard.vectors
    ranks = [
        rank_fold(
            shard.estimator, shard.X, v.W,
            task=task, scores=scores, propensity=v.propensity, groups=v.groups, sample_weights=v.weights,
        )
        for task, scores in zip(shard.tasks, shard.scores, strict=True)
    ]  # fmt: skip
    priorities = {f"priorities_{place}": rank.priorities.values for place, rank in enumerate(ranks)}
    return priorities | {"r_risk": np.array([rank.r_risk for rank in ranks])}


def blocks_key(X: FeatureBlocks) -> str:
    """Content address of feature blocks."""
    return digest(X.site, X.unit, X.site_index, X.names, X.blocks)
