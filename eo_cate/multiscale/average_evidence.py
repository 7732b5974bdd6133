"""AverageEvidence: an R-learner on site kernels that averages over scales, never chooses (METHODS.md, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.multiscale.evidence import Average, decompose_subsets, fit_average, leave_out_average
from eo_cate.stats.checks import group_codes
from eo_cate.stats.columns import ColumnScaling, fit_site_scaling
from eo_cate.stats.groups import stack_groups
from eo_cate.stats.half_samples import draw_half_samples
from eo_cate.stats.params import Parameters
from eo_cate.stats.pseudo_outcomes import SiteProblem, pose_sites
from eo_cate.stats.site_rows import SiteRows, average_rows, find_rows
from eo_cate.types import FeatureBlocks, FloatArray, IntArray, as_blocks

NUM_HALVES = 100
"""Half-samples behind a standard error: its own Monte-Carlo error is 7 %."""


@dataclass(frozen=True)
class HonestEffects:
    """Estimates of the training units by fits without their group, shape (n,)."""

    tau_hat: FloatArray


@dataclass(frozen=True)
class _BlockScaling:
    """One block as its kernel sees it: standardised, of mean squared row norm 1 over the training sites."""

    columns: IntArray
    scaling: ColumnScaling
    norm: float

    def apply(self, features: NDArray[Any]) -> FloatArray:
        return self.scaling.apply(features[:, self.columns]) * self.norm


@dataclass(frozen=True)
class _Replicates:
    """B fits on half of the groups: intercepts (B,), and of each block the coefficients (p, B)."""

    intercept: FloatArray
    coefficients: tuple[FloatArray, ...]


@dataclass(frozen=True)
class _Fitted:
    rows: FeatureBlocks
    blocks: tuple[_BlockScaling, ...]
    problem: SiteProblem
    average: Average
    coefficients: tuple[FloatArray, ...]
    leave_out: FloatArray


class AverageEvidence(Parameters):
    """Average of linear-kernel R-learners over all sets of blocks and six amounts of shrinkage, by their evidence.

    Half of it is the mean over all sets of blocks and gammas with weights exp(evidence / 2); the other half is the mean
    over blocks of single-block fits (averaged over gamma likewise), calibrated by one slope on leave-one-group-out
    predictions. No tuning, no folds, no components. Rows are sites: unit features enter as site means, those of one
    label as one block. tau_hat = ATE_hat + prediction.

    Parameters
    ----------
    seed : int
        Above 6 blocks: of the sets that are drawn (63 in all: each block alone, all together, and others).

    Notes
    -----
    `fit` takes the outcome as evaluation gives it, Y - m_hat with m_hat of other groups (METHODS.md, section 3). On the
    demo scene it gained over concatenation in R2 of tau, equalled the best single scale picked afterwards, and lost a
    little ranking to it where one scale holds all (METHODS.md, section 8; docs/procedures.md).
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._fitted: _Fitted | None = None
        self._replicates: _Replicates | None = None

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
            One block per scale; a plain array is one block.
        Y, W : (n,)
            Outcome less m_hat, and treatment in {0, 1}.
        propensity : (n,) or scalar
        sample_weights : (n,), optional
        groups : (n,) labels, optional
            What is left out together; every site its own when absent.

        Raises
        ------
        EstimationError
            On bad vectors, no columns, one arm, fewer than 3 groups, a site that straddles groups.
        """
        X = as_blocks(X)
        try:
            problem = pose_sites(X, Y, W, propensity=propensity, sample_weights=sample_weights, groups=groups)
            rows = average_rows(X, problem.rows)
            scalings = _fit_scalings(rows)
            with threadpool_limits(1, user_api="blas"):
                self._fitted, self._replicates = _solve(rows, scalings, problem, self.seed), None
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        return self

    @overload
    def predict(self, X: FeatureBlocks | NDArray[Any], std_err: Literal[False] = False) -> FloatArray: ...
    @overload
    def predict(self, X: FeatureBlocks | NDArray[Any], std_err: Literal[True]) -> tuple[FloatArray, FloatArray]: ...
    def predict(
        self, X: FeatureBlocks | NDArray[Any], std_err: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """tau_hat, shape (n,), with standard errors on request; unit features of X enter as the means of its sites.

        A standard error is the standard deviation over 100 refits, each on half of the groups; they are made at the
        first request and kept. NaN with fewer than 6 training groups. Shrinkage draws tau_hat to the average effect,
        which no standard error holds: tau_hat +- 1.96 std_err covers the truth less often than 95 %.

        Raises
        ------
        EstimationError
            Before `fit`, or when the columns are not those of `fit`.

        Notes
        -----
        For a mean of independent groups, half of them drawn without replacement scatter around it with its own
        variance (Politis and Romano 1994; the half-samples of RATE's bootstrap, Yadlowsky et al. 2021). That carries
        over to what is about linear in the groups' moments if a half is treated as the whole: each row stands for two,
        in the kernel (2 gamma for gamma: the same shrinkage) and in the evidence (twice the log). Scaling of the
        features, m_hat and ATE_hat are kept; the intercept takes up what ATE_hat would.
        """
        fit, X = self._require_fit(), as_blocks(X)
        if X.names != fit.rows.names:
            raise EstimationError(
                f"`X` has {len(X.names)} columns that are not the {len(fit.rows.names)} of `fit`, in order"
            )
        rows = find_rows(X)
        features = average_rows(X, rows).gather()
        try:
            parts = [block.apply(features) for block in fit.blocks]
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        effect = fit.problem.ATE_hat + fit.average.intercept + _combine(parts, fit.coefficients)
        if not std_err:
            return np.asarray(effect[rows.row])
        if self._replicates is None:
            with threadpool_limits(1, user_api="blas"):
                self._replicates = _refit_halves(fit, self.seed)
        found = self._replicates.intercept + _combine(parts, self._replicates.coefficients)
        return np.asarray(effect[rows.row]), found.std(axis=1, ddof=1)[rows.row]

    def oob(self) -> HonestEffects:
        """tau_hat of the training units by the average fitted without their group; scaling and ATE_hat are kept."""
        fit = self._require_fit()
        return HonestEffects((fit.problem.ATE_hat + fit.leave_out)[fit.problem.rows.row])

    def leave_out_predictions(
        self,
        X: FeatureBlocks | NDArray[Any],
        u: FloatArray,
        *,
        flip_unit: ArrayLike,
        weights: FloatArray | None = None,
    ) -> FloatArray:
        """Predictions of pseudo-outcomes by the fits without the row's flip unit: what sign-flip draws refit.

        Weights over candidates are found anew for each column of u, so this is not one matrix product as for RidgeR:
        see docs/procedures.md for its cost.

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
        X = as_blocks(X)
        every = np.arange(len(X), dtype=np.int64)
        rows = average_rows(X, SiteRows(every, every))
        kernels = [_gram(block.apply(rows.gather())) for block in _fit_scalings(rows)]
        omega = np.ones(len(X)) if weights is None else weights
        groups = stack_groups(group_codes(flip_unit, len(X))[0])
        with threadpool_limits(1, user_api="blas"):
            found = leave_out_average(
                decompose_subsets(kernels, omega, seed=self.seed), u.reshape(len(u), -1), omega, groups
            )
        return found.reshape(u.shape)

    def _require_fit(self) -> _Fitted:
        if self._fitted is None:
            raise EstimationError("this AverageEvidence is not fitted: call `fit` first")
        return self._fitted


def _fit_scalings(rows: FeatureBlocks) -> tuple[_BlockScaling, ...]:
    """Scaling of each block of the rows, in the order of their labels: the order of the columns does not matter."""
    labels, features = np.array(rows.blocks, dtype=object), rows.gather()
    if not len(labels):
        raise EvaluationError("`X` has no columns: give at least one block of features")
    return tuple(_fit_scaling(features, str(label), np.flatnonzero(labels == label)) for label in np.unique(labels))


def _fit_scaling(features: NDArray[np.float32], label: str, columns: IntArray) -> _BlockScaling:
    alone = FeatureBlocks(
        site=features[:, columns],
        unit=np.zeros((len(features), 0), dtype=np.float32),
        site_index=np.arange(len(features), dtype=np.int64),
        names=(label,) * len(columns),
        blocks=(label,) * len(columns),
    )
    scaling = fit_site_scaling(alone)
    norm = np.sqrt((scaling.apply(alone.site) ** 2).sum(axis=1).mean())
    return _BlockScaling(columns, scaling, 1 / norm if norm > 0 else 1.0)


def _gram(A: FloatArray) -> FloatArray:
    return np.asarray(A @ A.T)


def _solve(rows: FeatureBlocks, scalings: tuple[_BlockScaling, ...], problem: SiteProblem, seed: int) -> _Fitted:
    features = rows.gather()
    parts = [block.apply(features) for block in scalings]
    groups = stack_groups(problem.groups)
    if sum(len(stack) for stack in groups) < 3:
        raise EvaluationError("fewer than 3 groups: predictions without a group are calibrated on at least 2 others")
    candidates = decompose_subsets([_gram(A) for A in parts], problem.weights, seed=seed)
    average = fit_average(candidates, problem.u, problem.weights, groups)
    without = leave_out_average(candidates, problem.u[:, None], problem.weights, groups)[:, 0]
    coefficients = tuple(A.T @ alpha for A, alpha in zip(parts, average.alpha, strict=True))
    return _Fitted(rows, scalings, problem, average, coefficients, without)


def _combine(parts: list[FloatArray], coefficients: Sequence[FloatArray]) -> FloatArray:
    """Sum over blocks of their features (m, p) times coefficients (p,) or (p, B)."""
    return np.asarray(sum(A @ beta for A, beta in zip(parts, coefficients, strict=True)))


def _refit_halves(fit: _Fitted, seed: int) -> _Replicates:
    """Refit on half-samples of the groups; NaN where a half would hold fewer than 3."""
    problem, features = fit.problem, fit.rows.gather()
    parts = [block.apply(features) for block in fit.blocks]
    codes, num_groups = group_codes(problem.groups, len(problem.groups))
    intercept = np.full(NUM_HALVES, np.nan)
    coefficients = tuple(np.full((A.shape[1], NUM_HALVES), np.nan) for A in parts)
    if num_groups < 6:
        return _Replicates(intercept, coefficients)
    kernels = [2 * _gram(A) for A in parts]
    for b, chosen in enumerate(draw_half_samples(num_groups, NUM_HALVES, seed=seed)):
        kept = np.flatnonzero(chosen[codes])
        weights, groups = problem.weights[kept], stack_groups(group_codes(codes[kept], len(kept))[0])
        candidates = decompose_subsets([K[np.ix_(kept, kept)] for K in kernels], weights, seed=seed)
        average = fit_average(candidates, problem.u[kept], weights, groups, copies=2)
        intercept[b] = average.intercept
        for A, alpha, found in zip(parts, average.alpha, coefficients, strict=True):
            found[:, b] = 2 * (A[kept].T @ alpha)
    return _Replicates(intercept, coefficients)
