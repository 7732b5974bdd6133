"""Small areas: direct estimates borrow strength from a regression over all areas (Fay and Herriot 1979)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import finite_array
from eo_cate.types import BoolArray, FloatArray

_GRID = 200
_SCORING_STEPS = 50


@dataclass(frozen=True)
class SmallAreas:
    """Composite estimates of m areas, in the units of the outcome, from k covariates (the intercept first).

    Parameters
    ----------
    composite : (m,) float64
        shrinkage x direct + (1 - shrinkage) x regression; the regression where there is no direct estimate.
    mse : (m,) float64
        Mean squared error of the composite (Prasad and Rao 1990).
    std_err : (m,) float64
        Its square root.
    regression : (m,) float64
        Covariates times ``beta``.
    shrinkage : (m,) float64
        Weight of the direct estimate, in [0, 1]; 0 where there is none.
    beta, beta_std_err : (k,) float64
    between_variance : float
        REML variance of the areas' effects around the regression; 0 when the data show none.
    num_direct : int
        Areas with a direct estimate.
    """

    composite: FloatArray
    mse: FloatArray
    std_err: FloatArray
    regression: FloatArray
    shrinkage: FloatArray
    beta: FloatArray
    beta_std_err: FloatArray
    between_variance: float
    num_direct: int


def fay_herriot(
    direct: ArrayLike, std_err: ArrayLike, covariates: ArrayLike | None = None, *, intercept: bool = True
) -> SmallAreas:
    """Empirical best linear unbiased predictor of area effects; variance by REML, mean squared error by Prasad-Rao.

    Parameters
    ----------
    direct : (m,)
        Direct estimates; NaN where an area was not sampled (or is suppressed).
    std_err : (m,)
        Their standard errors, taken as known; positive where ``direct`` is given.
    covariates : (m, k) or (m,), optional
        Known in all areas, e.g. the synthetic estimates. The mean alone when absent.
    intercept : bool
        Put a column of ones first.

    Returns
    -------
    SmallAreas

    Raises
    ------
    EvaluationError
        On infinite values, errors that are not positive, missing covariates, collinear covariates, or no more areas
        with a direct estimate than covariates + 1.

    Notes
    -----
    direct_i = x_i' beta + u_i + e_i, var u_i = A, var e_i = std_err_i^2 = D_i. MSE with REML (Rao and Molina 2015,
    section 6.2): g1 + g2 + 2 g3, g1 = A D / (A + D), g2 = (1 - shrinkage)^2 x' (X' V^-1 X)^-1 x,
    g3 = D^2 / (A + D)^3 * 2 / sum (A + D)^-2; an area without direct estimate: A + x' (X' V^-1 X)^-1 x. Standard errors
    from few groups are noisy, and taking them as known then understates the MSE.
    """
    values, X = _design(direct, covariates, intercept=intercept)
    sampled = ~np.isnan(values)
    y, D = finite_array("direct", values[sampled]), _sampling_variance(std_err, sampled)
    _check_design(X[sampled], len(y))
    A = _reml(y, D, X[sampled])

    total = A + D
    beta, covariance = _regress(y, total, X[sampled])
    spread = np.einsum("ij,jk,ik->i", X, covariance, X)
    regression = X @ beta
    shrinkage, mse, composite = np.zeros(len(values)), A + spread, regression.copy()
    shrinkage[sampled] = A / total
    composite[sampled] += shrinkage[sampled] * (y - regression[sampled])
    g3 = D**2 / total**3 * 2 / np.sum(total**-2.0)
    mse[sampled] = A * D / total + (D / total) ** 2 * spread[sampled] + 2 * g3
    return SmallAreas(
        composite=composite,
        mse=mse,
        std_err=np.sqrt(mse),
        regression=regression,
        shrinkage=shrinkage,
        beta=beta,
        beta_std_err=np.sqrt(np.diag(covariance)),
        between_variance=A,
        num_direct=len(y),
    )


def _design(direct: ArrayLike, covariates: ArrayLike | None, *, intercept: bool) -> tuple[FloatArray, FloatArray]:
    values = np.asarray(direct, dtype=np.float64)
    if values.ndim != 1:
        raise EvaluationError(f"`direct` has {values.ndim} dimensions: give one value per area, shape (m,)")
    columns = [np.ones((len(values), 1))] if intercept else []
    if covariates is not None:
        given = finite_array("covariates", covariates)
        if given.ndim not in (1, 2) or len(given) != len(values):
            raise EvaluationError(
                f"`covariates` has shape {given.shape}, but there are {len(values)} areas: one row per area"
            )
        columns.append(given.reshape(len(values), -1))
    if not columns:
        raise EvaluationError("neither `covariates` nor an intercept: there is nothing to shrink to")
    return values, np.hstack(columns)


def _sampling_variance(std_err: ArrayLike, sampled: BoolArray) -> FloatArray:
    errors = np.asarray(std_err, dtype=np.float64)
    if errors.shape != sampled.shape:
        raise EvaluationError(f"`std_err` has shape {errors.shape}, but there are {len(sampled)} areas: one per area")
    bad = int((~np.isfinite(errors[sampled]) | (errors[sampled] <= 0)).sum())
    if bad:
        raise EvaluationError(
            f"`std_err` is missing, infinite, zero or negative in {bad} of {int(sampled.sum())} areas with a direct "
            "estimate (a single group has none): set `direct` to NaN there, and the regression speaks for them"
        )
    return np.asarray(errors[sampled] ** 2)


def _check_design(X: FloatArray, num_direct: int) -> None:
    k = X.shape[1]
    if num_direct <= k + 1:
        raise EvaluationError(
            f"{num_direct} areas with a direct estimate, but {k} coefficients and a variance need at least {k + 2}"
        )
    lengths = np.linalg.norm(X, axis=0)
    rank = int(np.linalg.matrix_rank(X / np.where(lengths > 0, lengths, 1.0), tol=1e-9))
    if rank < k:
        raise EvaluationError(
            f"the {k} columns of `covariates` (with the intercept) have rank {rank} over the {num_direct} areas with a "
            "direct estimate: drop those that repeat others"
        )


def _regress(y: FloatArray, total: FloatArray, X: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares: coefficients and (X' V^-1 X)^-1."""
    covariance = np.linalg.inv(X.T @ (X / total[:, None]))
    return np.asarray(covariance @ (X.T @ (y / total))), np.asarray(covariance)


def _restricted_log_likelihood(A: float, y: FloatArray, D: FloatArray, X: FloatArray) -> float:
    """Up to a constant."""
    total = A + D
    beta, covariance = _regress(y, total, X)
    misfit = float(np.sum((y - X @ beta) ** 2 / total))
    return -0.5 * (float(np.log(total).sum()) - float(np.linalg.slogdet(covariance)[1]) + misfit)


def _reml(y: FloatArray, D: FloatArray, X: FloatArray) -> float:
    """Variance that maximises the restricted likelihood over [0, infinity): the best of a grid, then Fisher scoring."""
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    top = float(np.sum(residual**2) / (len(y) - X.shape[1]) + D.max()) * 4
    grid = np.concatenate([[0.0], np.geomspace(1e-8 * top, top, _GRID)])
    best = int(np.argmax([_restricted_log_likelihood(float(A), y, D, X) for A in grid]))
    bounds = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID)]))
    found = minimize_scalar(
        lambda A: -_restricted_log_likelihood(float(A), y, D, X), bounds=bounds, method="bounded",
        options={"xatol": 1e-6 * bounds[1]},
    )  # fmt: skip
    A = float(found.x)
    for _ in range(_SCORING_STEPS):
        step = _scoring_step(A, y, D, X)
        A = min(max(A + step, bounds[0]), bounds[1])
        if abs(step) <= 1e-13 * top:
            break
    return A if _restricted_log_likelihood(A, y, D, X) > _restricted_log_likelihood(0.0, y, D, X) else 0.0


def _scoring_step(A: float, y: FloatArray, D: FloatArray, X: FloatArray) -> float:
    """Score over expected information, from P = V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1."""
    total = A + D
    _, covariance = _regress(y, total, X)
    scaled = X / total[:, None]
    P = np.diag(1 / total) - scaled @ covariance @ scaled.T
    projected = P @ y
    return float((projected @ projected - np.trace(P)) / np.sum(P * P))
