"""Weighted least squares with a covariance robust to heteroskedasticity and to groups (METHODS.md, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes
from eo_cate.types import FloatArray, IntArray

VCOV_TYPES = ("HC0", "HC1", "HC2", "HC3")
_COLLINEAR = 1e-9
"""Smallest singular value of the columns at unit length below which one repeats the others."""
_FULL_LEVERAGE = 1e-9
"""Distance of a leverage from 1 below which a group determines a coefficient alone."""


@dataclass(frozen=True)
class LinearFit:
    """Least squares of n units with weight, k terms.

    Parameters
    ----------
    coefficients : (k,) float64
    covariance : (k, k) float64
    df : int
        n - k.
    """

    coefficients: FloatArray
    covariance: FloatArray
    df: int

    @property
    def std_err(self) -> FloatArray:
        """Standard errors, shape (k,)."""
        return np.sqrt(np.diag(self.covariance))

    def contrast_std_err(self, contrast: FloatArray) -> float:
        """Standard error of a combination (k,) of the coefficients."""
        return float(np.sqrt(contrast @ self.covariance @ contrast))


def several_groups(groups: ArrayLike | None, length: int) -> tuple[IntArray, int]:
    """`group_codes` of at least 2 groups, as every clustered standard error needs."""
    codes, num_groups = group_codes(groups, length)
    if num_groups < 2:
        raise EvaluationError(
            f"{num_groups} group(s) among {length} units: a standard error needs at least 2; check `groups`"
        )
    return codes, num_groups


def mean_variance(deviations: FloatArray, weights: FloatArray, codes: IntArray) -> float:
    """Variance of a weighted mean: sum over groups of (sum o d)^2 / O^2, times G / (G - 1)."""
    total = np.bincount(codes, weights=weights * deviations)
    return float(np.sum(total**2) / weights.sum() ** 2 * len(total) / (len(total) - 1))


def check_vcov(vcov: str) -> None:
    """Refuse anything but HC0 to HC3."""
    if vcov not in VCOV_TYPES:
        raise EvaluationError(f"`vcov` is {vcov!r}: choose one of {VCOV_TYPES}")


def fit_least_squares(
    design: FloatArray,
    outcome: FloatArray,
    weights: FloatArray,
    codes: IntArray,
    *,
    terms: Sequence[str],
    vcov: str = "HC3",
) -> LinearFit:
    """Weighted least squares; covariance by group.

    Parameters
    ----------
    design : (n, k)
    outcome, weights : (n,)
        A unit of weight zero counts as absent.
    codes : (n,) int
        Groups 0..G-1, each with some weight; ``arange(n)`` without clusters.
    terms : k names, for messages
    vcov : {"HC0", "HC1", "HC2", "HC3"}

    Returns
    -------
    LinearFit

    Raises
    ------
    EvaluationError
        On an unknown ``vcov``, collinear columns, no more units than terms, or (HC2, HC3) a group that determines
        a coefficient alone.

    Notes
    -----
    With H_gg = X_g (X'WX)^-1 X_g' W_g and residuals e, the covariance is A M A, A = (X'WX)^-1, M the sum over groups
    of s_g s_g', s_g = X_g' W_g (I - H_gg)^-d e_g: d = 0 (HC0, HC1), 1/2 (HC2: Bell and McCaffrey 2002), 1 (HC3: the
    jackknife). HC0 is multiplied by G / (G - 1), HC1 by G / (G - 1) (n - 1) / (n - k), as in R's sandwich::vcovCL.
    In an orthonormal basis Q of W^1/2 X the power is one of the k x k matrix I - Q_g' Q_g, whatever the group's size.
    """
    check_vcov(vcov)
    root = np.sqrt(weights)
    scaled = design * root[:, None]
    _check_rank(scaled, terms)
    n, k = int((weights > 0).sum()), design.shape[1]
    if n <= k:
        raise EvaluationError(f"{n} units for {k} terms ({', '.join(terms)}): more units than terms are needed")
    Q, R = np.linalg.qr(scaled)
    coefficients = np.linalg.solve(R, Q.T @ (root * outcome))
    residual = root * (outcome - design @ coefficients)

    num_groups = int(codes.max()) + 1
    sums = [np.bincount(codes, weights=column * residual) for column in Q.T]
    scores = np.stack(sums, axis=1).astype(np.float64)
    factor = 1.0
    if vcov in ("HC0", "HC1"):
        factor = num_groups / (num_groups - 1) * ((n - 1) / (n - k) if vcov == "HC1" else 1.0)
    else:
        scores = _correct_leverage(Q, scores, codes, power=-0.5 if vcov == "HC2" else -1.0)
    influence = np.linalg.solve(R, scores.T)
    return LinearFit(coefficients, factor * influence @ influence.T, n - k)


def _correct_leverage(Q: FloatArray, scores: FloatArray, codes: IntArray, *, power: float) -> FloatArray:
    """(I - Q_g' Q_g)^power Q_g' e_g for each group, shape (G, k)."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(scores)))
    ordered = Q[order]
    blocks = np.stack([np.add.reduceat(ordered * column[:, None], starts, axis=0) for column in ordered.T], axis=1)
    values, vectors = np.linalg.eigh(np.eye(Q.shape[1]) - blocks)
    alone = int((values[:, 0] < _FULL_LEVERAGE).sum())
    if alone:
        raise EvaluationError(
            f"{alone} of {len(scores)} group(s) determine a coefficient alone, where HC2 and HC3 are not defined: "
            "merge terms so that each rests on several groups, or use vcov='HC1'"
        )
    rotated = np.einsum("gij,gi->gj", vectors, scores) * values**power
    return np.asarray(np.einsum("gij,gj->gi", vectors, rotated), dtype=np.float64)


def _check_rank(scaled: FloatArray, terms: Sequence[str]) -> None:
    length = np.linalg.norm(scaled, axis=0)
    unit = scaled / np.where(length > 0, length, 1.0)
    k = unit.shape[1]
    if len(unit) < k or np.linalg.matrix_rank(unit, tol=_COLLINEAR) == k:
        return
    ranks = [0, *(int(np.linalg.matrix_rank(unit[:, : j + 1], tol=_COLLINEAR)) for j in range(k))]
    repeated = [terms[j] for j in range(k) if ranks[j + 1] == ranks[j]]
    raise EvaluationError(
        f"{len(repeated)} of {k} columns are zero, constant or combinations of the columns before them: {repeated}; "
        "drop them"
    )
