"""The validity study: sizes, powers and coverages, and the faults it must see (METHODS.md, section 10).

A cell is a simulated design; each of its replications runs several procedures through the package's public functions
and notes what each of them decided. Rows of the study are means over replications, with their bars.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate import evaluation
from eo_cate.estimators import RidgeR
from eo_cate.evaluation import FoldRank, FoldScores, FoldTask
from eo_cate.evaluation.refit_tests import refit_test
from eo_cate.simulation.clustered import ClusteredDesign, ClusteredTrial, draw_clustered, draw_population
from eo_cate.simulation.faults import FAULTS
from eo_cate.types import FeatureBlocks

LEVEL = 0.05
NUM_DRAWS = 199
Outcomes = dict[str, float]
"""What one replication decided: name of the procedure -> 1 or 0 (or a number to be averaged)."""


@dataclass(frozen=True)
class Cell:
    """One simulated design, what is run on it, and how often."""

    design: ClusteredDesign
    procedures: tuple[str, ...]
    replications: int


def sequential(trial: ClusteredTrial, seed: int) -> Outcomes:
    """One fold order of the pre-specified configuration: does it reject, one-sided?"""
    found = evaluation.sequential_rate(
        RidgeR(), trial.everything(), trial.Y, trial.W, num_orders=1, seed=seed, **design_of(trial)
    )
    return {"sequential": found.p <= LEVEL}


def refit_all(trial: ClusteredTrial, seed: int) -> Outcomes:
    """The one test of all scales, with the outcome model and without."""
    options = {"num_draws": NUM_DRAWS, "seed": seed, **design_of(trial)}
    X = {"all": trial.everything()}
    with_model = refit_test(X, trial.Y, trial.W, **options)
    constant = FeatureBlocks.from_array(np.zeros((len(trial.Y), 1)))
    without = refit_test(X, trial.Y, trial.W, nuisance_X=constant, **options)
    return {"refit all scales": with_model.p <= LEVEL, "refit without m_hat": without.p <= LEVEL}


def refit_search(trial: ClusteredTrial, seed: int) -> Outcomes:
    """Max-T over single scales and pairs, and the redraw of W under the sharp null."""
    options = {"num_draws": NUM_DRAWS, "seed": seed, "nuisance_X": trial.everything(), **design_of(trial)}
    found = refit_test(configurations_of(trial), trial.Y, trial.W, **options)
    return {"refit max-T": found.p <= LEVEL}


def refit_forest(trial: ClusteredTrial, seed: int) -> Outcomes:
    """The search with an honest regression forest, refitted in every one of 39 draws."""
    options = {"num_draws": 39, "seed": seed, "nuisance_X": trial.everything(), **design_of(trial)}
    found = refit_test(configurations_of(trial), trial.Y, trial.W, learner="forest", **options)
    everything = refit_test({"all": trial.everything()}, trial.Y, trial.W, learner="forest", **options)
    return {"refit max-T, forest": found.p <= LEVEL, "refit all scales, forest": everything.p <= LEVEL}


def refit_redraw(trial: ClusteredTrial, seed: int) -> Outcomes:
    """The same search with W redrawn from the design in place of sign flips."""
    options = {"num_draws": NUM_DRAWS, "seed": seed, "nuisance_X": trial.everything(), **design_of(trial)}
    found = refit_test(configurations_of(trial), trial.Y, trial.W, method="redraw", **options)
    return {"redraw max-T": found.p <= LEVEL}


def sequential_search(trial: ClusteredTrial, seed: int) -> Outcomes:
    """Sequential p of every configuration: the naive best of them, and Bonferroni's."""
    folds = plan(trial, seed)
    p = [
        evaluation.pool_folds(folds.tasks, folds.scores, priorities(rank(trial, folds, X)), groups=trial.village).p
        for X in configurations_of(trial).values()
    ]
    return {"naive best of all": min(p) <= LEVEL, "Bonferroni": min(p) * len(p) <= LEVEL}


def gain(trial: ClusteredTrial, seed: int) -> Outcomes:
    """The honest gain of all scales over the chosen single one: is one claimed, two-sided?"""
    folds = plan(trial, seed)
    singles = {name: rank(trial, folds, trial.blocks(name)) for name in trial.scales}
    found = evaluation.pool_gain(
        folds.tasks, folds.scores, rank(trial, folds, trial.everything()), singles, groups=trial.village
    ).contrast
    return {"gain claimed": found.p <= LEVEL, "gain covered": found.interval[0] <= 0 <= found.interval[1]}


def shuffled(trial: ClusteredTrial, seed: int) -> Outcomes:
    """Features permuted over villages, group folds."""
    order = np.random.default_rng([seed, 99]).permutation(len(trial.scales["image_16"]))
    X = trial.everything()
    moved = FeatureBlocks(X.site[order], X.unit, X.site_index, X.names, X.blocks)
    folds = plan(trial, seed)
    found = evaluation.pool_folds(
        folds.tasks, folds.scores, priorities(rank(trial, folds, moved)), groups=trial.village
    )
    return {"shuffled, group folds": found.p <= LEVEL}


def coverage(trial: ClusteredTrial, seed: int, design: ClusteredDesign, draw: list[int]) -> Outcomes:
    """Does the 95 % interval hold the pooled AUTOC that the same rules have over 4,000 other villages?"""
    folds, population = plan(trial, seed), draw_population(design, seed=draw)
    other = population_blocks(population.scales)
    estimates, truths, weights = [], [], []
    for task, score in zip(folds.tasks, folds.scores, strict=True):
        fitted = RidgeR().fit(
            trial.everything().take(task.train), score.Y_residual, trial.W[task.train], propensity=trial.propensity,
            groups=trial.village[task.train],
        )  # fmt: skip
        truths.append(evaluation.rate(population.tau, fitted.predict(other), num_replicates=2).estimate[0])
        weights.append(len(task.test))
        estimates.append(evaluation.Priorities(fitted.predict(trial.everything().take(task.test)),
                                               np.unique(trial.village[task.train])))  # fmt: skip
    found = evaluation.pool_folds(folds.tasks, folds.scores, estimates, groups=trial.village)
    truth = float(np.average(truths, weights=weights))
    low, high = found.interval
    return {
        "AUTOC covered": low <= truth <= high,
        "AUTOC bias": found.estimate - truth,
        "power, sequential": found.p <= LEVEL,
    }


@dataclass(frozen=True)
class Planned:
    """One fold order with its scores."""

    tasks: list[FoldTask]
    scores: list[FoldScores]


def plan(trial: ClusteredTrial, seed: int) -> Planned:
    """Draw one fold order and score it on all scales."""
    tasks = evaluation.plan_folds(trial.village, W=trial.W, strata=trial.strata, num_orders=1, seed=seed)
    X = trial.everything()
    return Planned(tasks, [evaluation.score_fold(t, X, trial.Y, trial.W, **design_of(trial)) for t in tasks])


def rank(trial: ClusteredTrial, folds: Planned, X: FeatureBlocks) -> list[FoldRank]:
    """RidgeR on one configuration."""
    return [
        evaluation.rank_fold(
            RidgeR(), X, trial.W, task=task, scores=score, propensity=trial.propensity, groups=trial.village
        )
        for task, score in zip(folds.tasks, folds.scores, strict=True)
    ]


def priorities(ranked: list[FoldRank]) -> list[evaluation.Priorities]:
    """Priorities alone."""
    return [found.priorities for found in ranked]


def design_of(trial: ClusteredTrial) -> dict[str, Any]:
    """Keyword arguments that every public function takes."""
    return {"propensity": trial.propensity, "groups": trial.village, "strata": trial.strata}


def configurations_of(trial: ClusteredTrial) -> dict[str, FeatureBlocks]:
    """All single scales and pairs: 21 of 6 scales."""
    names = list(trial.scales)
    found = [*itertools.combinations(names, 1), *itertools.combinations(names, 2)]
    return {"+".join(some): trial.blocks(*some) for some in found}


def population_blocks(scales: Mapping[str, NDArray[np.float32]]) -> FeatureBlocks:
    """Features of villages outside the trial, one unit each, with the columns of the trial's."""
    site = np.hstack(list(scales.values()))
    names = tuple(f"{name}_{j}" for name, X in scales.items() for j in range(X.shape[1]))
    blocks = tuple(name for name, X in scales.items() for _ in range(X.shape[1]))
    every = np.arange(len(site), dtype=np.int64)
    return FeatureBlocks(site, np.zeros((len(site), 0), dtype=np.float32), every, names, blocks)


PROCEDURES: dict[str, Callable[[ClusteredTrial, int], Outcomes]] = {
    "sequential": sequential,
    "refit_all": refit_all,
    "refit_search": refit_search,
    "refit_forest": refit_forest,
    "refit_redraw": refit_redraw,
    "sequential_search": sequential_search,
    "gain": gain,
    "shuffled": shuffled,
    **FAULTS,
}


def run_replication(name: str, cell: Cell, replication: int) -> Outcomes:
    """All procedures of a cell on one draw of its design; the seed is the cell's name and the replication."""
    draw = [int.from_bytes(name.encode()[:6], "little"), replication]
    trial = draw_clustered(cell.design, seed=draw)
    found: Outcomes = {}
    for procedure in cell.procedures:
        if procedure == "coverage":
            found |= coverage(trial, replication, cell.design, draw)
        else:
            found |= PROCEDURES[procedure](trial, replication)
    return {key: float(value) for key, value in found.items()}
