"""m_hat and ATE_hat: one ridge per training set, exact leave-group-out (METHODS.md, section 3, step 1).

Model: Y = (W - e) a + intercept + stratum + Z b, Z the scaled features. b minimises the weighted squared error plus a
penalty; a solves sum omega h (Y - (W - e) a - m) = 0 with h = (W - e) / (e (1 - e)), so that it is the average effect
also when e varies. Solved jointly this is the fixed point of "ridge of Y - (W - e) ATE_hat, then ATE_hat from its
residuals", and linear in Y: leaving a group out, ATE_hat included, costs one small system per group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.columns import ColumnScaling, fit_site_scaling, fit_unit_scaling, rotate_wide
from eo_cate.stats.groups import stack_groups
from eo_cate.types import FeatureBlocks, FloatArray, IntArray

PENALTY_GRID = 10.0 ** np.linspace(-5, 2, 22)
"""Penalties tried, as multiples of the trace of the weighted kernel: from almost none to almost no features."""

STRATUM_PENALTY = 1e-3
"""In units of one average observation: as good as free, but defined when leaving a group out empties a stratum.

The block formula then loses about 1 / penalty^2 in precision: 1e-3 keeps 1e-8.
"""

_SMALLEST_WEIGHT = 1e-10
"""A unit of weight zero still needs its own m_hat, which the block formula divides by sqrt(omega)."""


@dataclass(frozen=True)
class Nuisances:
    """m_hat and ATE_hat of one training set.

    Parameters
    ----------
    m_hat : (n,) float64
        E[Y | x] without the effect, at the training units, learnt from the other groups.
    ATE_hat : float
        Average effect, from all training units.
    penalty : float
        Ridge penalty, chosen by leave-group-out error.
    loss : (P,) float64
        Weighted mean squared leave-group-out error at each penalty tried.
    intercept, stratum_labels, stratum_effects, site_coefficients, unit_coefficients
        The fit on all training units, used by `predict`.
    """

    m_hat: FloatArray
    ATE_hat: float
    penalty: float
    loss: FloatArray
    intercept: float
    stratum_labels: NDArray[Any]
    stratum_effects: FloatArray
    site_scaling: ColumnScaling
    site_coefficients: FloatArray
    unit_scaling: ColumnScaling
    unit_coefficients: FloatArray

    def predict(self, blocks: FeatureBlocks, *, strata: ArrayLike | None = None) -> FloatArray:
        """m_hat of other units, shape (n,); a stratum that was not trained on gets the intercept."""
        sites, index = np.unique(blocks.site_index, return_inverse=True)
        m = self.intercept + (self.site_scaling.apply(blocks.site[sites]) @ self.site_coefficients)[index]
        m += self.unit_scaling.apply(blocks.unit) @ self.unit_coefficients
        if strata is not None and len(self.stratum_labels):
            labels: NDArray[Any] = np.asarray(strata)
            place = np.minimum(np.searchsorted(self.stratum_labels, labels), len(self.stratum_labels) - 1)
            m += np.where(self.stratum_labels[place] == labels, self.stratum_effects[place], 0.0)
        return m


def fit_nuisances(
    blocks: FeatureBlocks,
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    penalties: ArrayLike | None = None,
) -> Nuisances:
    """Fit m_hat and ATE_hat on training units.

    Parameters
    ----------
    blocks : FeatureBlocks of n units
        Scaling is learnt here, on these units and their sites only.
    Y, W : (n,)
        Outcome, and treatment in {0, 1}.
    propensity : (n,) or scalar
    groups : (n,) labels
        m_hat of a unit is learnt without its group.
    strata : (n,) labels, optional
        Unpenalised dummies.
    sample_weights : (n,), optional
    penalties : (P,), optional
        Penalties tried, as multiples of the trace of the weighted kernel; `PENALTY_GRID` when absent.

    Returns
    -------
    Nuisances

    Raises
    ------
    EvaluationError
        On bad vectors, fewer than 2 groups, or an arm that is absent.
    """
    n = len(blocks)
    y, w = vector("Y", Y, length=n), treatment_vector(W, n)
    e = propensity_vector(propensity, n)
    codes, num_groups = group_codes(groups, n)
    if num_groups < 2:
        raise EvaluationError(f"{num_groups} group(s): leaving groups out needs at least 2; check `groups`")
    omega = weights_vector(sample_weights, n)
    if not 0 < (omega * w).sum() < omega.sum():
        raise EvaluationError(f"all {n} training units are in one arm: an effect needs treated and control units")
    omega = np.maximum(omega / omega.mean(), _SMALLEST_WEIGHT)

    site_scaling, unit_scaling = fit_site_scaling(blocks), fit_unit_scaling(blocks, omega)
    sites, index = np.unique(blocks.site_index, return_inverse=True)
    site_scores, rotation = rotate_wide(site_scaling.apply(blocks.site[sites]))
    Z = np.hstack([site_scores[index], unit_scaling.apply(blocks.unit)])
    labels, dummies = _stratum_dummies(strata, n)
    free = np.column_stack([w - e, np.ones(n), dummies])
    instruments = np.column_stack([(w - e) / (e * (1 - e)), np.ones(n), dummies])
    fit = _PartialRidge.prepare(Z, free, instruments, y, omega)
    grid = fit.scale * (PENALTY_GRID if penalties is None else np.atleast_1d(vector("penalties", penalties)))

    folds = stack_groups(codes)
    errors = [fit.leave_out(penalty, folds) for penalty in grid]
    loss = np.array([np.average(error.residual**2, weights=omega) for error in errors])
    best = int(np.argmin(loss))
    gamma, beta = fit.coefficients(grid[best])
    k = site_scores.shape[1]
    return Nuisances(
        m_hat=y - errors[best].residual - (w - e) * errors[best].effect,
        ATE_hat=float(gamma[0]),
        penalty=float(grid[best]),
        loss=loss,
        intercept=float(gamma[1]),
        stratum_labels=labels,
        stratum_effects=gamma[2:],
        site_scaling=site_scaling,
        site_coefficients=rotation @ beta[:k],
        unit_scaling=unit_scaling,
        unit_coefficients=beta[k:],
    )


def _stratum_dummies(strata: ArrayLike | None, n: int) -> tuple[NDArray[Any], FloatArray]:
    if strata is None:
        return np.empty(0), np.empty((n, 0))
    group_codes(strata, n, name="strata")
    labels, codes = np.unique(np.asarray(strata), return_inverse=True)
    if len(labels) == 1:
        return labels[:0], np.empty((n, 0))
    return labels, np.eye(len(labels))[codes]


@dataclass(frozen=True)
class _LeaveOut:
    """Residuals Y - (W - e) a - m and effects a, (n,) each, of the fits without the unit's own group."""

    residual: FloatArray
    effect: FloatArray


@dataclass(frozen=True)
class _PartialRidge:
    """Ridge with free columns, instruments for them, and an eigendecomposition that serves every penalty.

    Everything is multiplied by sqrt(omega). With K = Z Z', G = penalty (K + penalty)^-1 = I - Z D Z' the residual is
    N y, N = G - G U (J'G U + E)^-1 J'G: leaving rows g out gives N_gg^-1 (N y)_g (the block form of the PRESS
    residual, which needs no symmetry).
    """

    Z: FloatArray
    eigenvectors: FloatArray
    eigenvalues: FloatArray
    free: FloatArray
    instruments: FloatArray
    y: FloatArray
    root_weights: FloatArray

    @classmethod
    def prepare(
        cls, Z: FloatArray, free: FloatArray, instruments: FloatArray, y: FloatArray, omega: FloatArray
    ) -> _PartialRidge:
        root = np.sqrt(omega)
        weighted = Z * root[:, None]
        values, vectors = np.linalg.eigh(weighted.T @ weighted)
        return cls(
            Z=weighted @ vectors,
            eigenvectors=vectors,
            eigenvalues=np.maximum(values, 0.0),
            free=free * root[:, None],
            instruments=instruments * root[:, None],
            y=y * root,
            root_weights=root,
        )

    @property
    def scale(self) -> float:
        return float(self.eigenvalues.sum()) or 1.0

    def _smooth(self, penalty: float, columns: FloatArray) -> FloatArray:
        """Z D Z' columns."""
        return self.Z @ ((self.Z.T @ columns).T / (self.eigenvalues + penalty)).T

    def _solve(self, penalty: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """G U, G J, (J'G U + E)^-1, and the free coefficients."""
        GU = self.free - self._smooth(penalty, self.free)
        GJ = self.instruments - self._smooth(penalty, self.instruments)
        system = self.instruments.T @ GU
        strata = np.arange(2, len(system))
        system[strata, strata] += STRATUM_PENALTY
        inverse = np.asarray(np.linalg.inv(system), dtype=np.float64)
        return GU, GJ, inverse, inverse @ (GJ.T @ self.y)

    def coefficients(self, penalty: float) -> tuple[FloatArray, FloatArray]:
        """Free and penalised coefficients, the latter of the columns of Z as given."""
        gamma = self._solve(penalty)[3]
        residual = self.y - self.free @ gamma
        return gamma, self.eigenvectors @ ((self.Z.T @ residual) / (self.eigenvalues + penalty))

    def leave_out(self, penalty: float, folds: list[IntArray]) -> _LeaveOut:
        """Fit without each group, at one penalty."""
        GU, GJ, inverse, gamma = self._solve(penalty)
        fitted = self.y - self.free @ gamma
        residual = fitted - self._smooth(penalty, fitted)
        shrunk = self.Z / (self.eigenvalues + penalty)
        projected = GU @ inverse
        out, effect = np.empty_like(residual), np.empty_like(residual)
        for rows in folds:
            kept = self.Z[rows] @ shrunk[rows].transpose(0, 2, 1)
            kept += projected[rows] @ GJ[rows].transpose(0, 2, 1)
            alone = np.linalg.solve(np.eye(rows.shape[1]) - kept, residual[rows][:, :, None])
            out[rows] = alone[:, :, 0]
            effect[rows] = gamma[0] - np.einsum("gm,gmo->go", GJ[rows] @ inverse[0], alone)
        return _LeaveOut(out / self.root_weights, effect)
