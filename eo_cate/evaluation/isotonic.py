"""Causal isotonic calibration: tau_hat on the scale of the effect, in its own order (METHODS.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.isotonic import IsotonicRegression

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import vector, weights_vector
from eo_cate.stats.vcov import mean_variance, several_groups
from eo_cate.types import FloatArray, IntArray


@dataclass(frozen=True)
class CalibratedEffects:
    """Effects calibrated by the DR scores of other groups.

    Parameters
    ----------
    tau_hat : (n,) float64
        Calibrated effects, in the units of the outcome.
    error_before, error_after : float
        Squared calibration error, in squared units of the outcome: E[(E[Gamma | tau_hat] - tau_hat)^2]. Not
        truncated: below 0 means that none can be detected.
    std_err_before, std_err_after : float
        Of the errors, by group.
    fold : (n,) int64
        Each was calibrated by the other folds.
    """

    tau_hat: FloatArray
    error_before: float
    error_after: float
    std_err_before: float
    std_err_after: float
    fold: IntArray


@dataclass(frozen=True)
class _Sample:
    """Arrays (n,) of the units."""

    scores: FloatArray
    weights: FloatArray
    codes: IntArray
    fold: IntArray

    def calibrate(self, predictions: FloatArray, train: IntArray, apply: IntArray) -> FloatArray:
        """Isotonic regression of the scores of some units on their predictions, at the predictions of others."""
        model = IsotonicRegression(out_of_bounds="clip")
        model.fit(predictions[train], self.scores[train], sample_weight=self.weights[train])
        return np.asarray(model.predict(predictions[apply]), dtype=np.float64)

    def error(self, predictions: FloatArray, recalibrated: FloatArray) -> tuple[float, float]:
        """Squared calibration error and its standard error, from recalibrations by other groups."""
        gap = recalibrated - predictions
        values = 2 * (self.scores - predictions) * gap - gap**2
        estimate = float(np.average(values, weights=self.weights))
        return estimate, float(np.sqrt(mean_variance(values - estimate, self.weights, self.codes)))


def calibrate_isotonic(
    dr_scores: ArrayLike,
    tau_hat: ArrayLike,
    *,
    groups: ArrayLike,
    sample_weights: ArrayLike | None = None,
    num_folds: int = 10,
    seed: int = 0,
) -> CalibratedEffects:
    """Calibrate tau_hat by isotonic regression of DR scores on it, each group by the others.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores, in the units of the outcome.
    tau_hat : (n,)
        Effects learnt from other groups: the caller's responsibility.
    groups : (n,) labels
        Indivisible blocks of the cross-fitting.
    sample_weights : (n,), optional
    num_folds : int
        Folds of groups, from 3 to the number of groups.
    seed : int
        Of the folds.

    Returns
    -------
    CalibratedEffects

    Raises
    ------
    EvaluationError
        On bad vectors, fewer than 2 groups, or a number of folds that the groups do not allow.

    Notes
    -----
    van der Laan, Ulloa-Perez, Carone, Luedtke (2023). Calibration error in the sense of Xu and Yadlowsky (2022), by
    the mean of 2 (Gamma - t)(c(t) - t) - (c(t) - t)^2 = (Gamma - t)^2 - (Gamma - c(t))^2, t the prediction and c its
    isotonic recalibration learnt without the unit's fold: its expectation is the squared calibration error minus
    E[(c(t) - E[Gamma | t])^2], so that errors are understated, never invented. "After" is nested: t comes from a
    calibrator of the other folds, c from predictions of those folds that had been calibrated without each other and
    without the unit's fold, so no score judges what it helped to fit.
    """
    scores = vector("dr_scores", dr_scores)
    n = len(scores)
    tau = vector("tau_hat", tau_hat, length=n)
    codes, num_groups = several_groups(groups, n)
    weights = weights_vector(sample_weights, n, codes=codes)
    if not 3 <= num_folds <= num_groups:
        raise EvaluationError(f"`num_folds` is {num_folds} for {num_groups} groups: choose 3 to {num_groups}")
    dealt = np.random.default_rng(seed).permutation(np.arange(num_groups) % num_folds)
    sample = _Sample(scores, weights, codes, dealt[codes].astype(np.int64))

    calibrated, recalibrated = np.empty(n), np.empty(n)
    for fold in range(num_folds):
        rows, others = np.flatnonzero(sample.fold == fold), np.flatnonzero(sample.fold != fold)
        inner = np.empty(n)
        inner[rows] = calibrated[rows] = sample.calibrate(tau, others, rows)
        for second in range(num_folds):
            if second != fold:
                held = np.flatnonzero(sample.fold == second)
                inner[held] = sample.calibrate(tau, others[sample.fold[others] != second], held)
        recalibrated[rows] = sample.calibrate(inner, others, rows)
    before, after = sample.error(tau, calibrated), sample.error(calibrated, recalibrated)
    return CalibratedEffects(calibrated, before[0], after[0], before[1], after[1], sample.fold)
