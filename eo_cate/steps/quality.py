"""Is the model of effects any good? Calibration, groups, covariates and policy value of out-of-group tau_hat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from eo_cate import evaluation
from eo_cate.errors import EvaluationError
from eo_cate.evaluation import CalibratedEffects, ClanResult, GatesResult, PolicyValue, RegressionResult
from eo_cate.steps.context import FULL, Run
from eo_cate.steps.evaluate import Evaluated, Folds
from eo_cate.types import FloatArray, IntArray, Trial

POLICY_SHARES = np.array([0.1, 0.2, 0.3, 0.5])
NUM_GATES = 5


@dataclass(frozen=True)
class OutOfGroup:
    """What the rules of the first fold order say of the units that they never saw, (m,) each.

    ``rows`` are the units, folds 2 to K; ``tau_hat``, ``dr_scores`` and ``Y_hat`` come from the folds before.
    """

    rows: IntArray
    fold: IntArray
    tau_hat: FloatArray
    dr_scores: FloatArray
    Y_hat: FloatArray


@dataclass(frozen=True)
class Quality:
    """Instruments of one estimator on the pre-specified configuration (METHODS.md, section 6).

    None where there are none; ``absent`` says why, by instrument.
    """

    calibration: RegressionResult | None
    isotonic: CalibratedEffects | None
    gates: GatesResult | None
    clan: ClanResult | None
    policy: PolicyValue | None
    absent: Mapping[str, str]


def examine(run: Run, trial: Trial, evaluated: Evaluated) -> dict[str, Quality]:
    """Every instrument, by estimator; groups and shares are formed within folds, whose rules differ."""
    with run.timed("calibration and groups"):
        return {name: _examine_one(run, trial, evaluated, name) for name in evaluated.ranked}


def gather_out_of_group(folds: Folds, tau_hat: list[FloatArray]) -> OutOfGroup:
    """Stack the folds of the first order."""
    first = folds.first(1)
    return OutOfGroup(
        rows=np.concatenate([task.test for task in first.tasks]),
        fold=np.concatenate([np.full(len(task.test), task.fold) for task in first.tasks]),
        tau_hat=np.concatenate(tau_hat[: len(first.tasks)]),
        dr_scores=np.concatenate([score.dr_scores for score in first.scores]),
        Y_hat=np.concatenate([score.Y_hat for score in first.scores]),
    )


def _examine_one(run: Run, trial: Trial, evaluated: Evaluated, estimator: str) -> Quality:
    folds = evaluated.folds
    vectors = folds.vectors
    seen = gather_out_of_group(folds, [found.priorities.values for found in evaluated.ranked[estimator][FULL]])
    design: dict[str, Any] = {"groups": vectors.groups[seen.rows], "sample_weights": vectors.weights[seen.rows]}
    covariates = pd.DataFrame({name: trial.column(name)[seen.rows] for name in trial.covariates})
    instruments: dict[str, Callable[[], Any]] = {
        "calibration": lambda: evaluation.calibration_test(
            vectors.Y[seen.rows],
            vectors.W[seen.rows],
            propensity=vectors.propensity[seen.rows],
            Y_hat=seen.Y_hat,
            tau_hat=seen.tau_hat,
            **design,
        ),
        "isotonic": lambda: evaluation.calibrate_isotonic(seen.dr_scores, seen.tau_hat, seed=run.config.seed, **design),
        "gates": lambda: evaluation.gates(
            seen.dr_scores, seen.tau_hat, num_groups=NUM_GATES, folds=seen.fold, seed=run.config.seed, **design
        ),
        "clan": lambda: evaluation.clan(covariates, seen.tau_hat, folds=seen.fold, **design),
        "policy": lambda: evaluation.policy_value(
            seen.dr_scores,
            evaluation.rank_shares(seen.tau_hat, vectors.weights[seen.rows], seen.fold),
            q=POLICY_SHARES,
            num_replicates=run.config.evaluation.num_replicates,
            seed=run.config.seed,
            **design,
        ),
    }
    if not trial.covariates:
        del instruments["clan"]
    return _try_each(instruments, _count_distinct(seen))


def _count_distinct(seen: OutOfGroup) -> int:
    """Distinct tau_hat in the fold that has most of them."""
    return max(len(np.unique(seen.tau_hat[seen.fold == fold])) for fold in np.unique(seen.fold))


def _try_each(instruments: Mapping[str, Callable[[], Any]], distinct: int) -> Quality:
    """Each instrument that estimates with so many distinct values in a fold allow, and why the others are absent."""
    found: dict[str, Any] = dict.fromkeys(("calibration", "isotonic", "gates", "clan", "policy"))
    absent = {}
    for name, compute in instruments.items():
        if distinct < NUM_GATES:
            values = f"{distinct} distinct value{'s' if distinct > 1 else ''}"
            absent[name] = f"tau_hat has {values} in a fold at most: there is nothing to rank or to group by"
            continue
        try:
            found[name] = compute()
        except EvaluationError as error:
            absent[name] = str(error)
    return Quality(**found, absent=absent)
