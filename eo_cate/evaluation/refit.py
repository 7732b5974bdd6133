"""The refit test: does any ranking from these features predict the effect? (METHODS.md, section 4)

Every draw flips the signs of the pseudo-outcomes by flip unit, refits the learner and takes the largest AUTOC over
the configurations: the search pays for its tries.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.autoc import autoc_columns
from eo_cate.evaluation.flips import FlipProblem, draw_rows, draw_signs, refuse_few
from eo_cate.executor import Executor
from eo_cate.shards import compute_stored
from eo_cate.stats.kernel_ridge import Kernel, decompose, make_kernel
from eo_cate.stats.site_rows import SiteRows, average_rows, find_rows, fit_row_scaling
from eo_cate.store import Store, digest
from eo_cate.types import FeatureBlocks, FloatArray, IntArray, as_blocks

logger = logging.getLogger(__name__)
VERSION = 1
GIVEN_FREEDOM = 15.0


@runtime_checkable
class RefitEstimator(Protocol):
    """What can be refitted under sign flips."""

    def leave_out_predictions(
        self, X: FeatureBlocks, u: FloatArray, *, flip_unit: IntArray, weights: FloatArray
    ) -> FloatArray:
        """Predictions of u (S, B) for each row by the fit without its flip unit, shape (S, B)."""
        ...


@dataclass(frozen=True)
class Given:
    """What the conditional test holds fixed: features of units, and the kernel that smooths u over them.

    ``length``: of exp(-d^2 / (2 length^2)) on the features as they are (coordinates); None: standardised features and
    exp(-d^2 / median d^2).
    """

    X: FeatureBlocks
    length: float | None = None


@dataclass(frozen=True)
class RefitTest:
    """Result of a refit test over m configurations.

    Parameters
    ----------
    configurations : tuple of str
    statistic : (m,) float64
        AUTOC of leave-out predictions of u, in the units of the outcome.
    p : float
        Of the largest statistic over the configurations.
    adjusted_p : (m,) float64
        Step-down, family-wise.
    single_p : (m,) float64
        Of each configuration alone, as if it had been the only one.
    null_mean, null_sd : (m,) float64
        Of the draws.
    num_draws : int
        Draws used: fewer than asked when the decision was certain before.
    num_flip_units : int
    learner, method : str
    """

    configurations: tuple[str, ...]
    statistic: FloatArray
    p: float
    adjusted_p: FloatArray
    single_p: FloatArray
    null_mean: FloatArray
    null_sd: FloatArray
    num_draws: int
    num_flip_units: int
    learner: str
    method: str


@dataclass(frozen=True)
class _Shard:
    X: FeatureBlocks
    problem: FlipProblem
    learner: RefitEstimator
    method: str
    seed: int
    draws: range
    given: Given | None
    icc: float | None


def run_refit(
    problem: FlipProblem,
    configurations: Mapping[str, FeatureBlocks | NDArray[Any]],
    *,
    learner: RefitEstimator,
    name: str,
    settings: Mapping[str, Any],
    min_flip_units: int,
    num_draws: int = 199,
    method: str = "flip",
    seed: int = 0,
    given: Given | None = None,
    icc: float | None = None,
    stop_at: float | None = None,
    block: int | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: bool = False,
    description: str = "refit test",
) -> RefitTest:
    """Test a family of configurations by refitting under sign flips.

    Parameters
    ----------
    problem : FlipProblem
    configurations : mapping of name to features of the problem's units
    learner : RefitEstimator
    name, settings
        Of the learner: printed, and all that determines its predictions (its content address).
    min_flip_units : int
        Fewer are refused.
    num_draws : int
        B; 199 for a look, 999 for publication.
    method : {"flip", "redraw"}
        ``redraw`` is exact only when e = 1/2 or the effect is constant: at e = 1/3 with varying effects it rejected
        10-12 % at a nominal 5 %.
    given : Given, optional
        Makes it the conditional test (METHODS.md, section 7).
    icc : float, optional
        Precision weights m / (1 + (m - 1) icc) per site in fit and test.
    stop_at : float, optional
        Level at which draws stop once their decision is certain; p is then (1 + exceedances) / (draws + 1).
    block : int, optional
        Draws per unit of resumable work; all of them when absent.

    Raises
    ------
    EvaluationError
        Without configurations, with fewer than 19 draws, or too few flip units.
    """
    if not configurations:
        raise EvaluationError("`configurations` is empty: give at least one name -> features")
    if num_draws < 19:
        raise EvaluationError(f"`num_draws` is {num_draws}: at least 19 are needed for 5 %, 199 are usual")
    refuse_few(problem, minimum=min_flip_units, learner=name)
    if method == "redraw" and not np.all(problem.propensity == 0.5):
        logger.warning(
            "method 'redraw' with a propensity other than 1/2 is exact only when the effect is constant: with varying "
            "effects it rejected 10-12 %% at a nominal 5 %%; method 'flip' does not"
        )
    features = {key: as_blocks(X) for key, X in configurations.items()}
    _check_lengths(features, problem)
    shared = (dict(settings), digest(*problem.parts), method, seed, icc, _given_key(given))
    addresses = {key: digest(X.site, X.unit, X.site_index, X.names, X.blocks) for key, X in features.items()}
    statistic, null = np.zeros(0), np.zeros((len(features), 0))
    for start in range(0, num_draws, block or num_draws):
        draws = range(start, min(start + (block or num_draws), num_draws))
        shards = [_Shard(X, problem, learner, method, seed, draws, given, icc) for X in features.values()]
        keys = [Store.key("refit", VERSION, *shared, addresses[key], draws.start, draws.stop) for key in features]
        found = compute_stored(
            _compute, shards, keys, "refit",
            store=store, executor=executor or Executor(), description=description, progress=progress,
        )  # fmt: skip
        statistic = np.array([float(f["statistic"]) for f in found])
        null = np.hstack([null, np.stack([f["null"] for f in found])])
        if stop_at is not None and _is_certain(statistic, null, num_draws, stop_at):
            break
    p, adjusted = step_down(statistic, null)
    return RefitTest(
        configurations=tuple(features),
        statistic=statistic,
        p=p,
        adjusted_p=adjusted,
        single_p=(1 + (null >= statistic[:, None]).sum(axis=1)) / (null.shape[1] + 1),
        null_mean=null.mean(axis=1),
        null_sd=null.std(axis=1, ddof=1),
        num_draws=null.shape[1],
        num_flip_units=problem.num_flip_units,
        learner=name,
        method=method,
    )


def step_down(statistic: FloatArray, null: FloatArray) -> tuple[float, FloatArray]:
    """Max-T p of the family, and step-down adjusted p (Westfall, Young 1993) of each configuration.

    Parameters
    ----------
    statistic : (m,)
    null : (m, B)
        The same statistics in the draws.
    """
    order = np.argsort(-statistic, kind="stable")
    largest_below = np.maximum.accumulate(null[order][::-1], axis=0)[::-1]
    p = (1 + (largest_below >= statistic[order][:, None]).sum(axis=1)) / (null.shape[1] + 1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(p)
    return float(p[0]), adjusted


def _is_certain(statistic: FloatArray, null: FloatArray, num_draws: int, level: float) -> bool:
    """Whether the remaining draws cannot change if the family's p is at most ``level``."""
    exceeded = int((null.max(axis=0) >= statistic.max()).sum())
    remaining = num_draws - null.shape[1]
    bound = level * (num_draws + 1)
    return 1 + exceeded > bound or 1 + exceeded + remaining <= bound


def _compute(shard: _Shard) -> dict[str, NDArray[Any]]:
    """Statistic of one configuration, and those of its draws."""
    problem = shard.problem
    rows = find_rows(shard.X, problem.codes)
    u = rows.mean(problem.u, problem.weights)
    weights = rows.sum(problem.weights)
    if shard.icc is not None:
        weights = weights / (1 + (weights - 1) * shard.icc)
    flip = problem.flip[rows.first]
    if shard.given is None:
        null = draw_rows(problem, rows, method=shard.method, seed=shard.seed, draws=shard.draws)
        U = np.column_stack([u, null])
    else:
        U = _condition(shard, rows, u, weights, flip)
    predictions = shard.learner.leave_out_predictions(average_rows(shard.X, rows), U, flip_unit=flip, weights=weights)
    found = autoc_columns(U, predictions, weights)
    return {"statistic": np.array(found[0]), "null": found[1:]}


def _condition(shard: _Shard, rows: SiteRows, u: FloatArray, weights: FloatArray, flip: IntArray) -> FloatArray:
    """Freedman-Lane with leave-out residuals: v = (I - L) u, and (I - L)(L u + xi v) for each draw."""
    assert shard.given is not None
    L = smoother(shard.given, rows, weights, flip)
    fitted = L @ u
    v = u - fitted
    signs = draw_signs(shard.problem, seed=shard.seed, draws=shard.draws)
    draws = fitted[:, None] + v[:, None] * signs[flip]
    return np.column_stack([v, draws - L @ draws])


def smoother(given: Given, rows: SiteRows, weights: FloatArray, flip: IntArray) -> FloatArray:
    """Leave-out smoother L (S, S) over the given features, 15 degrees of freedom."""
    averaged = average_rows(given.X, rows)
    if given.length is None:
        A = fit_row_scaling(averaged).apply(averaged)
        K = make_kernel("rbf", A)(A, A)
    else:
        places = averaged.gather().astype(np.float64)
        K = Kernel("rbf", 2 * given.length**2)(places, places)
    system = decompose(K, weights)
    return system.leave_out_matrix(system.solve_gamma(GIVEN_FREEDOM), flip)


def _check_lengths(features: Mapping[str, FeatureBlocks], problem: FlipProblem) -> None:
    wrong = {key: len(X) for key, X in features.items() if len(X) != len(problem.u)}
    if wrong:
        raise EvaluationError(f"`configurations` {wrong} have other numbers of units than the {len(problem.u)} of Y")


def _given_key(given: Given | None) -> Sequence[Any] | None:
    if given is None:
        return None
    X = given.X
    return [digest(X.site, X.unit, X.site_index), given.length]
