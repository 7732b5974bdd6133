"""Average treatment effects from doubly robust scores (METHODS.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.scores import doubly_robust_scores
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.vcov import fit_least_squares, mean_variance, several_groups
from eo_cate.types import FloatArray, IntArray

TARGET_SAMPLES = ("all", "treated", "control", "overlap")


@dataclass(frozen=True)
class AteResult:
    """An average effect and its standard error, in the units of the outcome."""

    estimate: float
    std_err: float


@dataclass(frozen=True)
class _Sample:
    """The units averaged over, each array (n,); ``codes`` number the groups 0..G-1."""

    Y: FloatArray
    W: FloatArray
    propensity: FloatArray
    Y_hat: FloatArray
    tau_hat: FloatArray
    weights: FloatArray
    codes: IntArray
    clustered: bool

    def mean(self, values: FloatArray) -> float:
        return float(np.average(values, weights=self.weights))

    def variance(self, deviations: FloatArray) -> float:
        return mean_variance(deviations, self.weights, self.codes)


def average_treatment_effect(
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    Y_hat: ArrayLike,
    tau_hat: ArrayLike,
    target_sample: str = "all",
    subset: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> AteResult:
    """Augmented inverse-propensity average effect, as grf's average_treatment_effect (AIPW).

    grf's other method, TMLE, is left out.

    Parameters
    ----------
    Y, W : (n,)
        Outcome, and treatment in {0, 1}.
    propensity : (n,) or scalar
    Y_hat, tau_hat : (n,)
        E[Y | x] and effect, out of group.
    target_sample : {"all", "treated", "control", "overlap"}
    subset : (n,) bool or indices, optional
        Average over these units only.
    sample_weights : (n,), optional
    groups : (n,) labels, optional
        Clusters of the standard error; every unit its own when absent.

    Returns
    -------
    AteResult

    Raises
    ------
    EvaluationError
        On bad vectors, an unknown target, an empty arm, or fewer than 2 groups.
    """
    if target_sample not in TARGET_SAMPLES:
        raise EvaluationError(f"`target_sample` is {target_sample!r}: choose one of {TARGET_SAMPLES}")
    sample = _select(Y, W, propensity, Y_hat, tau_hat, subset, sample_weights, groups)
    if target_sample == "all":
        scores = doubly_robust_scores(
            sample.Y, sample.W, propensity=sample.propensity, Y_hat=sample.Y_hat, tau_hat=sample.tau_hat
        )
        estimate = sample.mean(scores)
        return AteResult(estimate, float(np.sqrt(sample.variance(scores - estimate))))
    check_arms(sample.W, sample.weights)
    if target_sample == "overlap":
        return _overlap_effect(sample)
    return _arm_effect(sample, arm=1.0 if target_sample == "treated" else 0.0)


def _select(
    Y: ArrayLike,
    W: ArrayLike,
    propensity: ArrayLike,
    Y_hat: ArrayLike,
    tau_hat: ArrayLike,
    subset: ArrayLike | None,
    sample_weights: ArrayLike | None,
    groups: ArrayLike | None,
) -> _Sample:
    y = vector("Y", Y)
    n = len(y)
    codes, _ = group_codes(groups, n)
    weights = weights_vector(sample_weights, n)
    rows = _subset_rows(subset, n)
    codes, _ = several_groups(codes[rows], len(rows))
    return _Sample(
        Y=y[rows],
        W=treatment_vector(W, n)[rows],
        propensity=propensity_vector(propensity, n)[rows],
        Y_hat=vector("Y_hat", Y_hat, length=n)[rows],
        tau_hat=vector("tau_hat", tau_hat, length=n)[rows],
        weights=weights_vector(weights[rows], len(rows), codes=codes),
        codes=codes,
        clustered=groups is not None,
    )


def _subset_rows(subset: ArrayLike | None, n: int) -> IntArray:
    if subset is None:
        return np.arange(n, dtype=np.int64)
    chosen: NDArray[Any] = np.asarray(subset)
    if chosen.dtype.kind == "b":
        if chosen.shape != (n,):
            raise EvaluationError(f"`subset` is a mask of shape {chosen.shape}, but there are {n} units")
        return np.flatnonzero(chosen).astype(np.int64)
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or (len(chosen) and not 0 <= chosen.min() <= chosen.max() < n):
        raise EvaluationError(f"`subset` must be a mask or indices in [0, {n})")
    return chosen.astype(np.int64)


def check_arms(W: FloatArray, weights: FloatArray) -> None:
    """Refuse units that are all treated, or all controls."""
    for inside, name in ((W == 1, "treated"), (W == 0, "control")):
        if weights[inside].sum() <= 0:
            raise EvaluationError(f"there is no {name} unit with weight among {len(W)} units: both arms are needed")


def _arm_effect(sample: _Sample, *, arm: float) -> AteResult:
    """Effect on the treated (arm 1) or on the controls (arm 0)."""
    W, e, o, tau = sample.W, sample.propensity, sample.weights, sample.tau_hat
    inside = arm == W
    mu = float(np.average(tau[inside], weights=o[inside]))
    gamma = np.where(inside, 1.0, e / (1 - e) if arm == 1.0 else (1 - e) / e)
    for members in (inside, ~inside):
        gamma[members] *= o.sum() / np.sum((o * gamma)[members])
    residual = sample.Y - sample.Y_hat
    d = W * gamma * (residual - (1 - e) * tau) - (1 - W) * gamma * (residual + e * tau)
    spread = float(np.sum((o * (tau - mu))[inside] ** 2) / o[inside].sum() ** 2)
    return AteResult(mu + sample.mean(d), float(np.sqrt(sample.variance(d) + spread)))


def _overlap_effect(sample: _Sample) -> AteResult:
    """Slope of Y - Y_hat on W - e, weighted; HC3 without clusters, HC1 by cluster with."""
    design = np.column_stack([np.ones(len(sample.W)), sample.W - sample.propensity])
    fit = fit_least_squares(
        design,
        sample.Y - sample.Y_hat,
        sample.weights,
        sample.codes,
        terms=("(Intercept)", "W - propensity"),
        vcov="HC1" if sample.clustered else "HC3",
    )
    return AteResult(float(fit.coefficients[1]), float(fit.std_err[1]))
