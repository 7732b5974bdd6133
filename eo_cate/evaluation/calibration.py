"""Does tau_hat predict the effect, and what moves the effect? Two weighted regressions (METHODS.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.ate import check_arms
from eo_cate.stats.checks import finite_array, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.vcov import LinearFit, check_vcov, fit_least_squares, several_groups
from eo_cate.types import FloatArray

CALIBRATION_TERMS = ("mean_prediction", "differential_prediction")


@dataclass(frozen=True)
class RegressionResult:
    """Coefficients of a weighted regression.

    Parameters
    ----------
    terms : tuple of str, length k
    estimate, std_err, t, p : (k,) float64
        p from the t distribution with n - k degrees of freedom, n the units with weight, also with groups.
    """

    terms: tuple[str, ...]
    estimate: FloatArray
    std_err: FloatArray
    t: FloatArray
    p: FloatArray


def calibration_test(
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    Y_hat: ArrayLike,
    tau_hat: ArrayLike,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    vcov: str = "HC3",
) -> RegressionResult:
    """Best linear predictor of the effect given tau_hat, as grf's test_calibration.

    Regresses Y - Y_hat on mean(tau_hat) (W - e) and (tau_hat - mean(tau_hat)) (W - e), without an intercept. Both
    coefficients are 1 when tau_hat is right; the second is above 0 when tau_hat finds heterogeneity.

    Parameters
    ----------
    Y, W : (n,)
        Outcome, and treatment in {0, 1}.
    propensity : (n,) or scalar
        e = P(W = 1).
    Y_hat, tau_hat : (n,)
        E[Y | x] and effect, learnt from other groups.
    sample_weights : (n,), optional
    groups : (n,) labels, optional
        Clusters of the covariance; every unit its own when absent.
    vcov : {"HC0", "HC1", "HC2", "HC3"}

    Returns
    -------
    RegressionResult
        Terms ``mean_prediction`` and ``differential_prediction``; ``p`` is one-sided (coefficient above 0): with
        out-of-bag or K-fold predictions a two-sided test rejects far too often.

    Raises
    ------
    EvaluationError
        On bad vectors, an empty arm, fewer than 2 groups, an unknown ``vcov``, or a tau_hat that does not vary.

    Notes
    -----
    Chernozhukov, Demirer, Duflo, Fernandez-Val (2018), in the residualised form of Athey and Wager (2019).
    """
    check_vcov(vcov)
    y = vector("Y", Y)
    w, e = treatment_vector(W, len(y)), propensity_vector(propensity, len(y))
    residual = y - vector("Y_hat", Y_hat, length=len(y))
    tau = vector("tau_hat", tau_hat, length=len(y))
    codes, _ = several_groups(groups, len(y))
    weights = weights_vector(sample_weights, len(y), codes=codes)
    check_arms(w, weights)
    mean = float(np.average(tau, weights=weights))
    if np.ptp(tau[weights > 0]) <= 1e-12 * max(abs(mean), np.finfo(np.float64).tiny):
        raise EvaluationError(
            f"`tau_hat` has one distinct value among {len(y)} units: `{CALIBRATION_TERMS[1]}` is zero and cannot be "
            "tested; a constant effect has nothing to calibrate"
        )
    design = np.column_stack([mean * (w - e), (tau - mean) * (w - e)])
    fit = fit_least_squares(design, residual, weights, codes, terms=CALIBRATION_TERMS, vcov=vcov)
    return _tabulate(fit, CALIBRATION_TERMS, one_sided=True)


def best_linear_projection(
    dr_scores: ArrayLike,
    A: pd.DataFrame | ArrayLike | None = None,
    *,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    vcov: str = "HC3",
) -> RegressionResult:
    """Regress doubly robust scores on covariates: the linear summary of the effect, as grf's best_linear_projection.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores, in the units of the outcome.
    A : (n, k) DataFrame or array, optional
        Covariates; names come from a DataFrame's columns, else A1, A2, ... Only the mean when absent.
    sample_weights : (n,), optional
        Times e (1 - e) they give grf's overlap-weighted projection.
    groups : (n,) labels, optional
        Clusters of the covariance; every unit its own when absent.
    vcov : {"HC0", "HC1", "HC2", "HC3"}

    Returns
    -------
    RegressionResult
        Terms ``(Intercept)`` and the covariates; ``p`` is two-sided.

    Raises
    ------
    EvaluationError
        On bad vectors, fewer than 2 groups, an unknown ``vcov``, or collinear covariates (named).

    Notes
    -----
    Semenova and Chernozhukov (2021); Cui et al. (2023).
    """
    check_vcov(vcov)
    scores = vector("dr_scores", dr_scores)
    names, covariates = named_columns(A, len(scores))
    codes, _ = several_groups(groups, len(scores))
    weights = weights_vector(sample_weights, len(scores), codes=codes)
    terms = ("(Intercept)", *names)
    design = np.column_stack([np.ones(len(scores)), covariates])
    fit = fit_least_squares(design, scores, weights, codes, terms=terms, vcov=vcov)
    return _tabulate(fit, terms)


def named_columns(A: pd.DataFrame | ArrayLike | None, length: int) -> tuple[tuple[str, ...], FloatArray]:
    """Names and values (n, k) of covariates without missing values."""
    if A is None:
        return (), np.empty((length, 0))
    if isinstance(A, pd.DataFrame):
        names = tuple(map(str, A.columns))
        bad = [name for name, column in zip(names, A.columns, strict=True) if A[column].isna().any()]
        if bad:
            raise EvaluationError(f"`A` has missing values in {bad}: drop those units or impute them")
    values = finite_array("A", A, length=length)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise EvaluationError(f"`A` has {values.ndim} dimensions: give one column per covariate, shape (n, k)")
    if not isinstance(A, pd.DataFrame):
        names = tuple(f"A{j + 1}" for j in range(values.shape[1]))
    return names, values


def _tabulate(fit: LinearFit, terms: tuple[str, ...], *, one_sided: bool = False) -> RegressionResult:
    std_err = fit.std_err
    t = np.divide(fit.coefficients, std_err, out=np.full(len(terms), np.nan), where=std_err > 0)
    p = stats.t.sf(t, fit.df) if one_sided else 2 * stats.t.sf(np.abs(t), fit.df)
    return RegressionResult(terms, fit.coefficients, std_err, t, np.asarray(p, dtype=np.float64))
