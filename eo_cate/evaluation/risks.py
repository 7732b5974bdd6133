"""Which of two models is nearer to the effect, without seeing it? (METHODS.md, section 6)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.ate import check_arms
from eo_cate.stats.checks import finite_array, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.vcov import several_groups
from eo_cate.types import FloatArray


@dataclass(frozen=True)
class RiskResult:
    """Risks: one row per model; with two models three rows: first, second, first - second on the same resamples.

    Parameters
    ----------
    estimate, std_err : (m,) float64
        In squared units of the outcome; m is 1 or 3. Only differences mean anything: each risk contains the noise.
    interval : (m, 2) float64
        Percentiles of the bootstrap by group.
    level : float
    """

    estimate: FloatArray
    std_err: FloatArray
    interval: FloatArray
    level: float


def r_risk(
    Y: ArrayLike,
    W: ArrayLike,
    tau_hat: ArrayLike,
    *,
    propensity: ArrayLike,
    Y_hat: ArrayLike,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    num_replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RiskResult:
    """R-risk: weighted mean of (Y - Y_hat - (W - e) tau_hat)^2 (Nie and Wager 2021).

    Parameters
    ----------
    Y, W : (n,)
        Outcome, and treatment in {0, 1}.
    tau_hat : (n,) or (n, 2)
        Effects of one or two models, learnt from other groups: the caller's responsibility.
    propensity : (n,) or scalar
        e = P(W = 1).
    Y_hat : (n,)
        E[Y | x], learnt from other groups.
    sample_weights : (n,), optional
    groups : (n,) labels, optional
        Indivisible blocks of the bootstrap; every unit its own when absent.
    num_replicates : int
        Resamples of the groups, with replacement.
    level : float
        Of the interval.
    seed : int

    Returns
    -------
    RiskResult

    Raises
    ------
    EvaluationError
        On bad vectors, an empty arm, fewer than 2 groups or replicates.
    """
    y = vector("Y", Y)
    w, e = treatment_vector(W, len(y)), propensity_vector(propensity, len(y))
    residual = y - vector("Y_hat", Y_hat, length=len(y))
    losses = (residual[:, None] - (w - e)[:, None] * _models(tau_hat, len(y))) ** 2
    check_arms(w, weights_vector(sample_weights, len(y)))
    return _bootstrap(losses, sample_weights, groups, num_replicates, level, seed)


def dr_risk(
    dr_scores: ArrayLike,
    tau_hat: ArrayLike,
    *,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    num_replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RiskResult:
    """DR-risk: weighted mean of (Gamma - tau_hat)^2 (Kennedy 2023); a difference is one of squared error in tau.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores with nuisances of other groups, in the units of the outcome.
    tau_hat, sample_weights, groups, num_replicates, level, seed
        As in `r_risk`.

    Returns
    -------
    RiskResult

    Raises
    ------
    EvaluationError
        On bad vectors, fewer than 2 groups or replicates.
    """
    scores = vector("dr_scores", dr_scores)
    losses = (scores[:, None] - _models(tau_hat, len(scores))) ** 2
    return _bootstrap(losses, sample_weights, groups, num_replicates, level, seed)


def _models(tau_hat: ArrayLike, length: int) -> FloatArray:
    values = finite_array("tau_hat", tau_hat, length=length)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] not in (1, 2):
        raise EvaluationError(f"`tau_hat` has shape {values.shape}: give (n,) or, for a difference, (n, 2)")
    return values


def _bootstrap(
    losses: FloatArray,
    sample_weights: ArrayLike | None,
    groups: ArrayLike | None,
    num_replicates: int,
    level: float,
    seed: int,
) -> RiskResult:
    """Weighted mean of each column of losses (n, 1 or 2), and of their difference, over resampled groups."""
    if num_replicates < 2:
        raise EvaluationError(f"`num_replicates` is {num_replicates}: an interval needs at least 2, 1000 is usual")
    if not 0 < level < 1:
        raise EvaluationError(f"`level` is {level}: give a coverage in (0, 1), such as 0.95")
    codes, num_groups = several_groups(groups, len(losses))
    weights = weights_vector(sample_weights, len(losses), codes=codes)
    if losses.shape[1] == 2:
        losses = np.column_stack([losses, losses[:, 0] - losses[:, 1]])
    sums = np.column_stack([np.bincount(codes, weights=column) for column in (weights * losses.T)])
    masses = np.bincount(codes, weights=weights)

    rng = np.random.default_rng(seed)
    replicates = np.empty((num_replicates, sums.shape[1]))
    for row in range(num_replicates):
        drawn = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        replicates[row] = drawn @ sums / (drawn @ masses)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    return RiskResult(
        estimate=sums.sum(axis=0) / masses.sum(),
        std_err=replicates.std(axis=0, ddof=1),
        interval=np.quantile(replicates, tails, axis=0).T,
        level=level,
    )
