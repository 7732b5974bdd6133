"""The no-refit variant: sequential folds, signs flipped in the evaluation folds only (METHODS.md, section 4).

For estimators that cannot be refitted in every draw. AUTOC is linear in the DR scores, so a draw is one dot product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.fold_steps import FoldScores, FoldTask
from eo_cate.evaluation.rate import Priorities, rank_weights
from eo_cate.evaluation.refit import RefitTest, step_down
from eo_cate.stats.checks import weights_vector
from eo_cate.stats.folds import flip_units
from eo_cate.types import FloatArray, IntArray


def no_refit_test(
    ranked: Mapping[str, Sequence[Priorities]],
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    *,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    num_draws: int = 199,
    seed: int = 0,
) -> RefitTest:
    """Max-T test of a family of rankings on the first fold order.

    Parameters
    ----------
    ranked : mapping of configuration to one Priorities per task
    tasks, scores : sequences of equal length
        From `plan_folds` and `score_fold`; only the first fold order is used.
    groups, strata, sample_weights : (n,)
        Of all units.
    num_draws, seed : int

    Returns
    -------
    RefitTest, ``statistic`` the pooled sequential AUTOC.

    Raises
    ------
    EvaluationError
        Without configurations, or when sequences disagree.
    """
    first = [i for i, task in enumerate(tasks) if task.order == tasks[0].order]
    wrong = {name: len(found) for name, found in ranked.items() if len(found) < len(first)}
    if not ranked or wrong:
        raise EvaluationError(f"`ranked` needs {len(first)} Priorities per configuration, found {wrong or 'none'}")
    n = len(np.asarray(groups))
    flip, omega = flip_units(groups, strata), weights_vector(sample_weights, n)
    parts = np.stack(
        [_parts_by_flip_unit([tasks[i] for i in first], [scores[i] for i in first], found, flip, omega)
         for found in ranked.values()]
    )  # fmt: skip
    signs = np.random.default_rng(seed).integers(0, 2, (parts.shape[1], num_draws)) * 2.0 - 1.0
    statistic, null = parts.sum(axis=1), parts @ signs
    p, adjusted = step_down(statistic, null)
    return RefitTest(
        configurations=tuple(ranked),
        statistic=statistic,
        p=p,
        adjusted_p=adjusted,
        single_p=(1 + (null >= statistic[:, None]).sum(axis=1)) / (num_draws + 1),
        null_mean=null.mean(axis=1),
        null_sd=null.std(axis=1, ddof=1),
        num_draws=num_draws,
        num_flip_units=parts.shape[1],
        learner="no refit",
        method="flip",
    )


def _parts_by_flip_unit(
    tasks: Sequence[FoldTask],
    scores: Sequence[FoldScores],
    ranked: Sequence[Priorities],
    flip: IntArray,
    omega: FloatArray,
) -> FloatArray:
    """What each flip unit contributes to the pooled AUTOC, shape (F,); scores are centred in their fold."""
    total = sum(omega[task.test].sum() for task in tasks)
    parts = np.zeros(int(flip.max()) + 1)
    for task, score, priorities in zip(tasks, scores, ranked, strict=False):
        w = omega[task.test]
        centred = score.dr_scores - np.average(score.dr_scores, weights=w)
        a = rank_weights(priorities.values, w, target="AUTOC")
        np.add.at(parts, flip[task.test], w * a * centred / total)
    return parts
