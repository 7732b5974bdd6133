"""RidgeR: an R-learner by kernel ridge on the pseudo-outcomes of sites (METHODS.md, section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.kernel_ridge import KERNELS, Kernel, KernelRidge, decompose, make_kernel
from eo_cate.stats.params import Parameters
from eo_cate.stats.pseudo_outcomes import SiteProblem, pose_sites
from eo_cate.stats.site_rows import RowScaling, SiteRows, average_rows, find_rows, fit_row_scaling
from eo_cate.types import FeatureBlocks, FloatArray, IntArray, as_blocks

GAMMA_RULES = ("df", "r_risk")
_GAMMA_GRID_DF = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0)


@dataclass(frozen=True)
class RidgeOob:
    """Leave-one-group-out estimates of the training units, shape (n,)."""

    tau_hat: FloatArray


@dataclass(frozen=True)
class _Fitted:
    scaling: RowScaling
    kernel: Kernel
    A: FloatArray
    rows: SiteRows
    u: FloatArray
    blocks: IntArray
    system: KernelRidge
    gamma: float
    ATE_hat: float


class RidgeR(Parameters):
    """Kernel ridge of u = (W - e)(Y - m_hat - (W - e) ATE_hat) / (e (1 - e)) on the features of sites.

    Rows are sites: unit features enter as site means, pseudo-outcomes as (weighted) site means, sites weigh as their
    units do. Columns are standardised and each block scaled to mean squared row norm 1 over the training sites.
    tau_hat = ATE_hat + prediction of u.

    Parameters
    ----------
    kernel : {"rbf", "linear"}
        ``rbf``: exp(-d^2 / median d^2).
    degrees_of_freedom : float
        tr(H) - 1 of the fit on all training sites, at most a quarter of their number.
    gamma : {"df", "r_risk"}
        ``df``: as above; ``r_risk``: the degrees of freedom among 1, 2, 3, 5, 7, 10, 15, 20, 30 with the smallest
        leave-one-group-out R-risk on the training groups.
    icc : float or None
        Intra-cluster correlation of u, in [0, 1): sites then weigh m / (1 + (m - 1) icc), m their weight in units.

    Notes
    -----
    `fit` takes the outcome as evaluation gives it, Y - m_hat with m_hat of other groups; a raw Y is centred at its
    mean only, which costs most of the power (METHODS.md, section 3).
    """

    def __init__(
        self,
        *,
        kernel: str = "rbf",
        degrees_of_freedom: float = 10.0,
        gamma: str = "df",
        icc: float | None = None,
    ) -> None:
        self.kernel = kernel
        self.degrees_of_freedom = degrees_of_freedom
        self.gamma = gamma
        self.icc = icc
        self._fitted: _Fitted | None = None

    def fit(
        self,
        X: FeatureBlocks | NDArray[Any],
        Y: ArrayLike,
        W: ArrayLike,
        *,
        propensity: ArrayLike,
        sample_weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit on n units; returns self.

        Parameters
        ----------
        X : FeatureBlocks or (n, p)
        Y, W : (n,)
            Outcome less m_hat, and treatment in {0, 1}.
        propensity : (n,) or scalar
        sample_weights : (n,), optional
        groups : (n,) labels, optional
            What `oob` leaves out together; every site its own when absent.

        Raises
        ------
        EstimationError
            On bad vectors or parameters, one arm, fewer than 2 sites, a site that straddles groups.
        """
        self._check_params()
        X = as_blocks(X)
        try:
            problem = pose_sites(X, Y, W, propensity=propensity, sample_weights=sample_weights, groups=groups)
            self._fitted = self._solve(X, problem, Y, W, propensity, sample_weights)
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        return self

    def predict(self, X: FeatureBlocks | NDArray[Any]) -> FloatArray:
        """tau_hat, shape (n,); unit features of X enter as the means of its sites.

        Raises
        ------
        EstimationError
            Before `fit`, or when the columns are not those of `fit`.
        """
        fit, X = self._require_fit(), as_blocks(X)
        rows = find_rows(X)
        try:
            A = fit.scaling.apply(average_rows(X, rows))
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        intercept, alpha = fit.system.coefficients(fit.gamma, fit.u)
        return (fit.ATE_hat + intercept + fit.kernel(A, fit.A) @ alpha)[rows.row]

    def oob(self) -> RidgeOob:
        """tau_hat of the training units by the fits without their group, gamma and ATE_hat kept."""
        fit = self._require_fit()
        return RidgeOob((fit.ATE_hat + fit.system.leave_out_matrix(fit.gamma, fit.blocks) @ fit.u)[fit.rows.row])

    def leave_out_predictions(
        self,
        X: FeatureBlocks | NDArray[Any],
        u: FloatArray,
        *,
        flip_unit: ArrayLike,
        weights: FloatArray | None = None,
    ) -> FloatArray:
        """Predictions of pseudo-outcomes by the fits without the row's flip unit: what sign-flip draws refit.

        Parameters
        ----------
        X : FeatureBlocks or (S, p)
            One unit per site.
        u : (S,) or (S, B)
            Pseudo-outcomes, B draws.
        flip_unit : (S,) labels
        weights : (S,), optional

        Returns
        -------
        float64 of the shape of u.
        """
        self._check_params()
        X = as_blocks(X)
        every = np.arange(len(X), dtype=np.int64)
        rows = average_rows(X, SiteRows(every, every))
        _, _, system = self._decompose(rows, np.ones(len(X)) if weights is None else weights)
        gamma = system.solve_gamma(self.degrees_of_freedom)
        return np.asarray(system.leave_out_matrix(gamma, group_codes(flip_unit, len(X))[0]) @ u)

    def _solve(
        self,
        X: FeatureBlocks,
        problem: SiteProblem,
        Y: ArrayLike,
        W: ArrayLike,
        propensity: ArrayLike,
        sample_weights: ArrayLike | None,
    ) -> _Fitted:
        rows, u, ATE_hat = problem.rows, problem.u, problem.ATE_hat
        scaling, A, system = self._decompose(average_rows(X, rows), problem.weights)
        if self.gamma == "df":
            gamma = system.solve_gamma(self.degrees_of_freedom)
        else:
            n = len(X)
            centred_W = treatment_vector(W, n) - propensity_vector(propensity, n)
            residual = vector("Y", Y, length=n) - centred_W * ATE_hat
            omega = weights_vector(sample_weights, n)
            gamma = _least_r_risk(system, problem.groups, u, rows.row, residual, centred_W, omega)
        return _Fitted(scaling, make_kernel(self.kernel, A), A, rows, u, problem.groups, system, gamma, ATE_hat)

    def _decompose(self, rows: FeatureBlocks, weights: FloatArray) -> tuple[RowScaling, FloatArray, KernelRidge]:
        scaling = fit_row_scaling(rows)
        A = scaling.apply(rows)
        precision = weights if self.icc is None else weights / (1 + (weights - 1) * self.icc)
        return scaling, A, decompose(make_kernel(self.kernel, A)(A, A), precision)

    def _check_params(self) -> None:
        if self.kernel not in KERNELS:
            raise EstimationError(f"`kernel` is {self.kernel!r}: choose one of {KERNELS}")
        if self.gamma not in GAMMA_RULES:
            raise EstimationError(f"`gamma` is {self.gamma!r}: choose one of {GAMMA_RULES}")
        if self.degrees_of_freedom <= 0:
            raise EstimationError(f"`degrees_of_freedom` is {self.degrees_of_freedom}: give a positive number")
        if self.icc is not None and not 0 <= self.icc < 1:
            raise EstimationError(f"`icc` is {self.icc}: an intra-cluster correlation lies in [0, 1)")

    def _require_fit(self) -> _Fitted:
        if self._fitted is None:
            raise EstimationError("this RidgeR is not fitted: call `fit` first")
        return self._fitted


def _least_r_risk(
    system: KernelRidge,
    blocks: IntArray,
    u: FloatArray,
    row: IntArray,
    residual: FloatArray,
    centred_W: FloatArray,
    omega: FloatArray,
) -> float:
    """Gamma of the least leave-one-group-out R-risk sum omega (residual - (W - e) prediction)^2."""
    gammas = [system.solve_gamma(df) for df in _GAMMA_GRID_DF if df <= len(u) / 4 or df == _GAMMA_GRID_DF[0]]
    risks = [
        np.sum(omega * (residual - centred_W * (system.leave_out_matrix(gamma, blocks) @ u)[row]) ** 2)
        for gamma in gammas
    ]
    return gammas[int(np.argmin(risks))]
