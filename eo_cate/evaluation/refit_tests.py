"""`refit_test` and `conditional_test` on plain arrays (METHODS.md, sections 4 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError
from eo_cate.estimators import RegressionForest, RidgeR
from eo_cate.evaluation.flips import FlipProblem, pose_flips
from eo_cate.evaluation.refit import Given, RefitEstimator, RefitTest, run_refit
from eo_cate.stats.nuisances import fit_nuisances
from eo_cate.store import digest
from eo_cate.types import FeatureBlocks, as_blocks

Features = FeatureBlocks | NDArray[Any]
RIDGE_MINIMUM = 20
FOREST_MINIMUM = 40
REFIT_TREES = 200


def refit_test(
    configurations: Mapping[str, Features],
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    learner: str | RefitEstimator = "ridge",
    num_draws: int = 199,
    seed: int = 0,
    method: str = "flip",
    icc: float | None = None,
    stop_at: float | None = None,
    nuisance_X: Features | None = None,
) -> RefitTest:
    """Does any ranking from the configurations predict the effect? Null: E[tau | X] is constant.

    Parameters
    ----------
    configurations : mapping of name to FeatureBlocks or (n, p)
        The family that is tested; one entry is one test.
    Y, W : (n,)
        Outcome, and treatment in {0, 1}.
    propensity : (n,) or scalar
    groups : (n,) labels
        Indivisible blocks: randomisation cluster and site, see `connected_groups`.
    strata : (n,) labels, optional
        Strata of 2 to 9 groups (pairs) are left out and flipped as a whole.
    sample_weights : (n,), optional
    learner : {"ridge", "forest"} or RefitEstimator
        ``ridge``: `RidgeR` with its defaults; ``forest``: an honest `RegressionForest` of 200 trees on site means,
        refitted in every draw. Observed statistic and draws use the same one.
    num_draws : int
        B; 199 for a look, 999 for publication.
    seed : int
    method : {"flip", "redraw"}
        ``redraw`` draws W from the design under a constant effect: exact only when e = 1/2 or the effect is constant.
    icc : float, optional
        Precision weights m / (1 + (m - 1) icc) per site in fit and test.
    stop_at : float, optional
        Stop drawing once the decision at this level is certain.
    nuisance_X : FeatureBlocks or (n, p), optional
        Features of m_hat; all distinct columns of the configurations when absent.

    Returns
    -------
    RefitTest

    Raises
    ------
    EvaluationError
        On bad vectors, below 20 flip units (ridge) or 40 (forests), or an unknown learner.
    """
    if not configurations:
        raise EvaluationError("`configurations` is empty: give at least one name -> features")
    model, name, minimum = resolve_learner(learner)
    shared = join_columns(list(configurations.values())) if nuisance_X is None else as_blocks(nuisance_X)
    problem = _pose(shared, Y, W, propensity, groups, strata, sample_weights)
    return run_refit(
        problem, configurations, learner=model, name=name, settings={}, min_flip_units=minimum, num_draws=num_draws,
        method=method, seed=seed, icc=icc, stop_at=stop_at, block=None if stop_at is None else 25,
    )  # fmt: skip


def conditional_test(
    X: Features,
    given: Features,
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    coordinates: bool = True,
    learner: str | RefitEstimator = "ridge",
    num_draws: int = 199,
    seed: int = 0,
    nuisance_X: Features | None = None,
) -> RefitTest:
    """Image or place? Does X predict what a smooth surface over ``given`` does not?

    Freedman-Lane with leave-out residuals: v = (I - L) u with L a leave-out kernel smoother of 15 degrees of freedom,
    draws u* = L u + xi v, re-residualised (METHODS.md, section 7).

    Parameters
    ----------
    X : FeatureBlocks or (n, p)
    given : FeatureBlocks or (n, q)
        What is held fixed.
    coordinates : bool
        True: ``given`` are projected coordinates, smoothed by exp(-d^2 / (2 l^2)) with l a tenth of their extent;
        False: covariates, standardised, exp(-d^2 / median d^2).

    Other parameters as in `refit_test`; m_hat is learnt on X and ``given`` when ``nuisance_X`` is absent.

    Returns
    -------
    RefitTest, of one configuration named ``X``.
    """
    model, name, minimum = resolve_learner(learner)
    fixed = as_blocks(given)
    shared = join_columns([X, fixed]) if nuisance_X is None else as_blocks(nuisance_X)
    problem = _pose(shared, Y, W, propensity, groups, strata, sample_weights)
    return run_refit(
        problem, {"X": X}, learner=model, name=name, settings={}, min_flip_units=minimum, num_draws=num_draws,
        seed=seed, given=Given(fixed, tenth_of_extent(fixed) if coordinates else None),
    )  # fmt: skip


def resolve_learner(learner: str | RefitEstimator) -> tuple[RefitEstimator, str, int]:
    """The learner, its name, and the least number of flip units it is used with.

    Raises
    ------
    EvaluationError
        For an unknown name, or an object without `leave_out_predictions`.
    """
    if learner == "ridge":
        return RidgeR(), "ridge", RIDGE_MINIMUM
    if learner == "forest":
        return RegressionForest(num_trees=REFIT_TREES), "forest", FOREST_MINIMUM
    if isinstance(learner, RefitEstimator) and not isinstance(learner, str):
        return learner, type(learner).__name__, RIDGE_MINIMUM if isinstance(learner, RidgeR) else FOREST_MINIMUM
    raise EvaluationError(
        f"`learner` is {learner!r}: give 'ridge', 'forest' or an object with `leave_out_predictions`; any other "
        "estimator goes through `no_refit_test`"
    )


def tenth_of_extent(coordinates: FeatureBlocks) -> float:
    """A tenth of the larger side of the box around all places: the smoother's length, in the coordinates' unit.

    Raises
    ------
    EvaluationError
        When all places are the same.
    """
    places = coordinates.gather().astype(np.float64)
    extent = float(np.ptp(places, axis=0).max())
    if not extent > 0:
        raise EvaluationError("`given` holds one place only: there is nothing to smooth over")
    return extent / 10


def join_columns(features: list[Features]) -> FeatureBlocks:
    """All distinct columns of several feature sets of the same units, each once (compared by content).

    Raises
    ------
    EvaluationError
        When they have different numbers of units.
    """
    sets = [as_blocks(X) for X in features]
    if len({len(X) for X in sets}) > 1:
        raise EvaluationError(f"features of {[len(X) for X in sets]} units: give the same units, in the same order")
    if len({digest(X.site_index, len(X.site)) for X in sets}) > 1:
        sets = [FeatureBlocks.from_array(X.gather()) for X in sets]
    parts: dict[str, dict[bytes, tuple[NDArray[np.float32], str]]] = {"site": {}, "unit": {}}
    for X in sets:
        labels = iter(X.blocks)
        for table, columns in ((X.site, parts["site"]), (X.unit, parts["unit"])):
            for column, block in zip(table.T, labels, strict=False):
                columns.setdefault(column.tobytes(), (column, block))
    found = {part: list(columns.values()) for part, columns in parts.items()}
    empty = {"site": np.zeros((len(sets[0].site), 0)), "unit": np.zeros((len(sets[0]), 0))}
    tables = {part: np.column_stack([empty[part], *(c for c, _ in found[part])]) for part in parts}
    blocks = tuple(block for part in parts for _, block in found[part])
    return FeatureBlocks(
        site=tables["site"].astype(np.float32),
        unit=tables["unit"].astype(np.float32),
        site_index=sets[0].site_index,
        names=tuple(f"{block}_{j}" for j, block in enumerate(blocks)),
        blocks=blocks,
    )


def _pose(
    nuisance_X: FeatureBlocks,
    Y: ArrayLike,
    W: ArrayLike,
    propensity: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike | None,
    sample_weights: ArrayLike | None,
) -> FlipProblem:
    fit = fit_nuisances(
        nuisance_X, Y, W, propensity=propensity, groups=groups, strata=strata, sample_weights=sample_weights
    )
    return pose_flips(
        Y, W, propensity=propensity, Y_hat=fit.m_hat, ATE_hat=fit.ATE_hat, groups=groups, strata=strata,
        sample_weights=sample_weights,
    )  # fmt: skip
