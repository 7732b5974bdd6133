"""What sign flips act on: pseudo-outcomes, flip units, and the draws of both null worlds (METHODS.md, section 4)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.folds import flip_units, group_strata, refuse_lone_strata
from eo_cate.stats.site_rows import SiteRows
from eo_cate.types import FloatArray, IntArray

METHODS = ("flip", "redraw")
WARN_BELOW = 40
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlipProblem:
    """The null "no ranking from X predicts the effect", ready for draws; arrays over n units.

    Parameters
    ----------
    u : (n,) float64
        (W - e) (Y - m_hat - (W - e) ATE_hat) / (e (1 - e)), less its weighted mean.
    residual : (n,) float64
        Y - m_hat - (W - e) ATE_hat.
    W, propensity, weights : (n,) float64
    codes, flip, strata : (n,) int64
        Group, flip unit, and stratum (of the group) of each unit.
    """

    u: FloatArray
    residual: FloatArray
    W: FloatArray
    propensity: FloatArray
    weights: FloatArray
    codes: IntArray
    flip: IntArray
    strata: IntArray

    @property
    def num_flip_units(self) -> int:
        """F."""
        return int(self.flip.max()) + 1

    @property
    def parts(self) -> tuple[object, ...]:
        """All that determines draws and statistics, for a content address."""
        return (self.u, self.residual, self.W, self.propensity, self.weights, self.codes, self.flip, self.strata)


def pose_flips(
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    Y_hat: ArrayLike,
    ATE_hat: float,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
) -> FlipProblem:
    """Pose the null from an outcome model.

    Parameters
    ----------
    Y, W : (n,)
    propensity : (n,) or scalar
    Y_hat : (n,)
        m_hat, learnt without the unit's group, stratum effects included.
    ATE_hat : float
    groups, strata : (n,) labels
    sample_weights : (n,), optional

    Raises
    ------
    EvaluationError
        On bad vectors, one arm, or fewer than 2 flip units.
    """
    y = vector("Y", Y)
    n = len(y)
    w, e = treatment_vector(W, n), propensity_vector(propensity, n)
    if not 0 < w.sum() < n:
        raise EvaluationError(f"`W` has {int(w.sum())} treated units of {n}: both arms are needed")
    codes, num_groups = group_codes(groups, n)
    omega = weights_vector(sample_weights, n, codes=codes)
    refuse_lone_strata(codes, w, strata)
    flip = flip_units(codes, strata)
    if flip.max() < 1:
        raise EvaluationError(f"{int(flip.max()) + 1} flip unit(s): sign flips need at least 2 groups (or pairs)")
    residual = y - vector("Y_hat", Y_hat, length=n) - (w - e) * ATE_hat
    u = (w - e) / (e * (1 - e)) * residual
    return FlipProblem(
        u=u - np.average(u, weights=omega),
        residual=residual,
        W=w,
        propensity=e,
        weights=omega / omega.mean(),
        codes=codes,
        flip=flip,
        strata=group_strata(codes, num_groups, strata)[codes],
    )


def refuse_few(problem: FlipProblem, *, minimum: int, learner: str) -> None:
    """Refuse a learner below its least number of flip units; warn below 40, where power fails.

    Raises
    ------
    EvaluationError
        Naming the count.
    """
    count = problem.num_flip_units
    if count < minimum:
        raise EvaluationError(
            f"{count} flip units (groups, or pairs and small strata): the refit test with {learner} needs {minimum}"
        )
    if count < WARN_BELOW:
        logger.warning("%d flip units: the refit test keeps its size but finds little below %d", count, WARN_BELOW)


def draw_rows(problem: FlipProblem, rows: SiteRows, *, method: str, seed: int, draws: range) -> FloatArray:
    """Null pseudo-outcomes of rows, shape (S, len(draws)): draw b is the same whatever other draws are asked for.

    ``flip`` changes the sign of whole flip units; ``redraw`` draws W anew from the design under a constant effect.

    Raises
    ------
    EvaluationError
        For an unknown method.
    """
    if method not in METHODS:
        raise EvaluationError(f"`method` is {method!r}: choose one of {METHODS}")
    if method == "flip":
        u = rows.mean(problem.u, problem.weights)
        return u[:, None] * draw_signs(problem, seed=seed, draws=draws)[problem.flip[rows.first]]
    e = problem.propensity
    columns = []
    for rng in (np.random.default_rng([seed, b]) for b in draws):
        redrawn = (_redraw_treatment(problem, rng) - e) / (e * (1 - e)) * problem.residual
        columns.append(rows.mean(redrawn - np.average(redrawn, weights=problem.weights), problem.weights))
    return np.column_stack(columns)


def draw_signs(problem: FlipProblem, *, seed: int, draws: range) -> FloatArray:
    """Fair signs +-1 of every flip unit, shape (F, len(draws)), each draw from a stream of its own."""
    signs = [np.random.default_rng([seed, b]).integers(0, 2, problem.num_flip_units) * 2.0 - 1.0 for b in draws]
    return np.column_stack(signs)


def _redraw_treatment(problem: FlipProblem, rng: np.random.Generator) -> FloatArray:
    """W permuted over the groups of each stratum where it is constant in groups, else over units within groups."""
    share = np.bincount(problem.codes, weights=problem.W) / np.bincount(problem.codes)
    if np.isin(share, (0.0, 1.0)).all():
        first = np.unique(problem.codes, return_index=True)[1]
        return _permute_within(share, problem.strata[first], rng)[problem.codes]
    return _permute_within(problem.W, problem.codes, rng)


def _permute_within(values: FloatArray, labels: IntArray, rng: np.random.Generator) -> FloatArray:
    place = np.argsort(labels, kind="stable")
    shuffled = np.lexsort((rng.random(len(labels)), labels))
    result = np.empty_like(values)
    result[place] = values[shuffled]
    return result
