"""Many configurations on the same folds and the same scores, in shards that are stored as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.evaluation.fold_steps import FoldScores, FoldTask, rank_fold, score_fold
from eo_cate.evaluation.rate import Priorities
from eo_cate.executor import Executor
from eo_cate.shards import compute_stored
from eo_cate.store import Store, digest
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, Trial

VERSION = 1


@dataclass(frozen=True)
class _ScoreShard:
    task: FoldTask
    X: FeatureBlocks
    trial: Trial


@dataclass(frozen=True)
class _RankShard:
    task: FoldTask
    X: FeatureBlocks
    trial: Trial
    scores: FoldScores
    estimator: CateEstimator


def score_folds(
    tasks: Sequence[FoldTask],
    nuisance_X: FeatureBlocks,
    trial: Trial,
    *,
    store: Store,
    executor: Executor,
    progress: bool = True,
) -> list[FoldScores]:
    """`score_fold` of every task: residuals and DR scores that all configurations share."""
    shards = [_ScoreShard(task, nuisance_X, trial) for task in tasks]
    shared = (blocks_key(nuisance_X), trial_key(trial))
    keys = [Store.key("scores", VERSION, *shared, task.train, task.test) for task in tasks]
    found = compute_stored(
        _score, shards, keys, "scores", store=store, executor=executor, description="outcome models", progress=progress
    )
    return [FoldScores(f["Y_residual"], f["dr_scores"], float(f["ATE_hat"])) for f in found]


def rank_folds(
    configurations: Mapping[str, FeatureBlocks],
    estimator: CateEstimator,
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    trial: Trial,
    *,
    settings: Mapping[str, Any],
    store: Store,
    executor: Executor,
    description: str,
    progress: bool = True,
) -> dict[str, list[Priorities]]:
    """`rank_fold` of every configuration and task.

    Parameters
    ----------
    configurations : mapping of name to FeatureBlocks
    estimator : CateEstimator
        Copies of it are fitted; ``settings`` must name all that determines its predictions: they are its key.
    tasks, scores : sequences of equal length

    Returns
    -------
    dict of name -> list of Priorities, one per task
    """
    pairs = [(name, i) for name in configurations for i in range(len(tasks))]
    shards = [_RankShard(tasks[i], configurations[name], trial, scores[i], estimator) for name, i in pairs]
    features = {name: blocks_key(X) for name, X in configurations.items()}
    shared = (dict(settings), trial_key(trial))
    keys = [
        Store.key("rank", VERSION, *shared, features[name], tasks[i].train, tasks[i].test, scores[i].Y_residual)
        for name, i in pairs
    ]
    found = compute_stored(
        _rank, shards, keys, "rank", store=store, executor=executor, description=description, progress=progress
    )
    ranked: dict[str, list[Priorities]] = {name: [] for name in configurations}
    for (name, i), values in zip(pairs, found, strict=True):
        ranked[name].append(Priorities(values["priorities"], np.unique(trial.groups[tasks[i].train])))
    return ranked


def _score(shard: _ScoreShard) -> dict[str, NDArray[Any]]:
    trial = shard.trial
    scores = score_fold(
        shard.task,
        shard.X,
        trial.column("outcome"),
        trial.column("treatment"),
        propensity=trial.column("propensity"),
        groups=trial.groups,
        strata=trial.strata,
        sample_weights=trial.column("weight"),
    )
    return {"Y_residual": scores.Y_residual, "dr_scores": scores.dr_scores, "ATE_hat": np.array(scores.ATE_hat)}


def _rank(shard: _RankShard) -> dict[str, FloatArray]:
    trial = shard.trial
    priorities = rank_fold(
        shard.estimator,
        shard.X,
        trial.column("treatment"),
        task=shard.task,
        scores=shard.scores,
        propensity=trial.column("propensity"),
        groups=trial.groups,
        sample_weights=trial.column("weight"),
    )
    return {"priorities": priorities.values}


def blocks_key(X: FeatureBlocks) -> str:
    """Content address of feature blocks."""
    return digest(X.site, X.unit, X.site_index, X.names, X.blocks)


def trial_key(trial: Trial) -> str:
    """Content address of all that a trial gives to estimators and scores."""
    columns = (trial.column(c) for c in ("outcome", "treatment", "propensity", "weight"))
    return digest(*columns, trial.groups, trial.strata)
