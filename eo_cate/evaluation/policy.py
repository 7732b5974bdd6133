"""What is it worth to treat the best share first? (METHODS.md, section 6)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.rate import Priorities, check_priorities, check_shares
from eo_cate.stats.checks import vector, weights_vector
from eo_cate.stats.half_samples import draw_half_samples
from eo_cate.stats.vcov import several_groups
from eo_cate.types import FloatArray, IntArray


@dataclass(frozen=True)
class PolicyValue:
    """Value of treating the best share q, per unit of the population, in the units of the outcome.

    Parameters
    ----------
    q : (Q,) float64
        Shares treated.
    value, value_std_err : (Q,) float64
        Against treating nobody.
    over_random, over_random_std_err : (Q,) float64
        Against treating as many at random: q TOC(q).
    over_all, over_all_std_err : (Q,) float64
        Against treating everybody.
    """

    q: FloatArray
    value: FloatArray
    value_std_err: FloatArray
    over_random: FloatArray
    over_random_std_err: FloatArray
    over_all: FloatArray
    over_all_std_err: FloatArray


def policy_value(
    dr_scores: ArrayLike,
    priorities: ArrayLike | Priorities,
    *,
    q: ArrayLike,
    cost: ArrayLike = 0.0,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    num_replicates: int = 200,
    seed: int = 0,
) -> PolicyValue:
    """Value of treating the share q with the largest priorities, from DR scores of held-out groups.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores of the evaluation units, in the units of the outcome.
    priorities : (n,) or Priorities
        Ranking, the largest is treated first, learnt from other groups: checked for a `Priorities`, else the
        caller's responsibility.
    q : (Q,) or scalar
        Shares treated, in (0, 1].
    cost : scalar or (n,)
        Of treating a unit, in the units of the outcome.
    sample_weights : (n,), optional
    groups : (n,) labels, optional
        Indivisible blocks of the bootstrap; every unit its own when absent.
    num_replicates : int
        Half-samples behind the standard errors.
    seed : int

    Returns
    -------
    PolicyValue

    Raises
    ------
    LeakageError
        When a `Priorities` was trained on some of the evaluation groups.
    EvaluationError
        On bad vectors, fewer than 2 groups or replicates, q outside (0, 1].

    Notes
    -----
    Weighted mean of pi (Gamma - cost), pi the share of a unit that is treated: 1 above the cut, 0 below, and a
    common fraction for the units tied at it. The half-samples, and so the standard errors, are those of `rate`
    (Yadlowsky et al. 2021); unlike a variance with pi held fixed they follow the cut.
    """
    scores = vector("dr_scores", dr_scores)
    n = len(scores)
    ranking = check_priorities(priorities, groups, n)
    if ranking.shape[1] != 1:
        raise EvaluationError(f"`priorities` has shape {ranking.shape}: one ranking is valued at a time, shape (n,)")
    shares = check_shares(q)
    costs = np.asarray(cost, dtype=np.float64)
    net = scores - vector("cost", np.full(n, costs) if costs.ndim == 0 else costs, length=n)
    codes, num_groups = several_groups(groups, n)
    weights = weights_vector(sample_weights, n, codes=codes)
    members = draw_half_samples(num_groups, num_replicates, seed=seed)

    place = np.unique(-ranking[:, 0], return_inverse=True)[1].astype(np.int64)
    value, over_random, over_all = _values(net, weights, place, shares)
    replicates = np.stack([_values(net, weights * chosen[codes], place, shares) for chosen in members])
    std_err = replicates.std(axis=0, ddof=1)
    return PolicyValue(shares, value, std_err[0], over_random, std_err[1], over_all, std_err[2])


def _values(net: FloatArray, weights: FloatArray, place: IntArray, shares: FloatArray) -> FloatArray:
    """Value against nobody, random and everybody, shape (3, Q); ``place`` numbers the tied runs, the best first."""
    mass = np.concatenate([[0.0], np.cumsum(np.bincount(place, weights=weights))])
    gain = np.concatenate([[0.0], np.cumsum(np.bincount(place, weights=weights * net))])
    value = np.interp(shares * mass[-1], mass, gain) / mass[-1]
    mean = gain[-1] / mass[-1]
    return np.stack([value, value - shares * mean, value - mean])
