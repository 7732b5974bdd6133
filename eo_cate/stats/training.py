"""Training units of an estimator: fits of copies of it, and tau_hat of each unit learnt without its group."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.folds import group_folds
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, IntArray, as_blocks

RISK_FOLDS = 3
FEWEST_GROUPS = 10
"""Groups that a fit needs where it has a causal forest inside."""


@dataclass(frozen=True)
class TrainingUnits:
    """n units that estimators are fitted on: Y is the outcome less m_hat, ``groups`` are codes from 0.

    ``sample_weights`` and ``groups`` are None where the user gave none: the estimator then gets none either.
    """

    X: FeatureBlocks | NDArray[Any]
    Y: FloatArray
    W: FloatArray
    propensity: FloatArray
    sample_weights: FloatArray | None
    groups: IntArray | None

    @classmethod
    def of(
        cls,
        X: FeatureBlocks,
        Y: ArrayLike,
        W: ArrayLike,
        *,
        propensity: ArrayLike,
        sample_weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> TrainingUnits:
        """Validate the arguments of an estimator's `fit`.

        Raises
        ------
        EvaluationError
            On bad vectors.
        """
        n = len(X)
        return cls(
            X=X,
            Y=vector("Y", Y, length=n),
            W=treatment_vector(W, n),
            propensity=propensity_vector(propensity, n),
            sample_weights=None if sample_weights is None else weights_vector(sample_weights, n),
            groups=None if groups is None else group_codes(groups, n)[0],
        )

    @property
    def blocks(self) -> FeatureBlocks:
        """The features with their blocks; a plain array is one."""
        return as_blocks(self.X)

    def take(self, rows: IntArray) -> TrainingUnits:
        """Some of the units."""
        return TrainingUnits(
            X=take_rows(self.X, rows),
            Y=self.Y[rows],
            W=self.W[rows],
            propensity=self.propensity[rows],
            sample_weights=None if self.sample_weights is None else self.sample_weights[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def with_features(self, X: FeatureBlocks) -> TrainingUnits:
        """The same units with other features."""
        return replace(self, X=X)

    def with_outcome(self, Y: FloatArray) -> TrainingUnits:
        """The same units with another outcome."""
        return replace(self, Y=Y)

    def fit(self, estimator: CateEstimator) -> Any:
        """A fitted copy of the estimator."""
        fitted: Any = copy.deepcopy(estimator)
        fitted.fit(
            self.X,
            self.Y,
            self.W,
            propensity=self.propensity,
            sample_weights=self.sample_weights,
            groups=self.groups,
        )
        return fitted

    def honest_effects(
        self, estimator: CateEstimator, fitted: Any, *, seed: int = 0, allow_gaps: bool = False
    ) -> FloatArray:
        """tau_hat (n,) of each unit by fits without its group: ``fitted.oob()``, else by 3 folds of groups.

        Folds deal out whole groups; without groups, whole sites. With 11 to 14 of them there are more folds, so that
        10 are left to each fit.

        Raises
        ------
        EvaluationError
            When there is another number of estimates, or, unless gaps are allowed, one of them is NaN or infinite.
        """
        values = fitted.oob().tau_hat if hasattr(fitted, "oob") else self._cross_fit(estimator, seed)
        return check_effects(values, estimator, len(self.Y), what="estimates out of group", allow_gaps=allow_gaps)

    def residual(self, tau_hat: FloatArray) -> FloatArray:
        """Y - (W - e) tau_hat, shape (n,)."""
        return self.Y - (self.W - self.propensity) * tau_hat

    def r_risk(self, tau_hat: FloatArray) -> float:
        """Weighted mean of (Y - (W - e) tau_hat)^2: only differences between models have a meaning."""
        return float(np.average(self.residual(tau_hat) ** 2, weights=self.sample_weights))

    def _cross_fit(self, estimator: CateEstimator, seed: int) -> FloatArray:
        blocks = self._sites() if self.groups is None else self.groups
        num_folds = choose_risk_folds(len(np.unique(blocks)))
        folds = group_folds(blocks, W=self.W, num_folds=num_folds, seed=seed, both_arms=num_folds == RISK_FOLDS)
        tau_hat = np.full(len(self.Y), np.nan)
        for fold in range(num_folds):
            inside = np.flatnonzero(folds == fold)
            fitted = self.take(np.flatnonzero(folds != fold)).fit(estimator)
            tau_hat[inside] = np.asarray(fitted.predict(take_rows(self.X, inside)), dtype=np.float64)
        return tau_hat

    def _sites(self) -> IntArray:
        """Site of each unit; each unit its own where features do not say."""
        has_sites = isinstance(self.X, FeatureBlocks) and (self.X.site.shape[1] > 0 or len(self.X.site) > 1)
        return self.blocks.site_index if has_sites else np.arange(len(self.Y), dtype=np.int64)


def choose_risk_folds(num_groups: int) -> int:
    """3, or as many as leave `FEWEST_GROUPS` to each fit, where there are more than those."""
    spare = num_groups - FEWEST_GROUPS
    return RISK_FOLDS if spare <= 0 else max(RISK_FOLDS, math.ceil(num_groups / spare))


def take_rows(X: FeatureBlocks | NDArray[Any], rows: IntArray) -> FeatureBlocks | NDArray[Any]:
    """Some rows of features, in the form that they came in: a plain array stays one."""
    return X.take(rows) if isinstance(X, FeatureBlocks) else X[rows]


def has_errors(estimator: Any) -> bool:
    """Whether ``predict`` takes ``std_err``, by itself or handed on to the estimator inside."""
    parameters = inspect.signature(estimator.predict).parameters
    hands_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return "std_err" in parameters or (hands_on and hasattr(estimator, "estimator") and has_errors(estimator.estimator))


def predict_with_errors(estimator: Any, X: FeatureBlocks) -> tuple[FloatArray, FloatArray]:
    """tau_hat and std_err of a fitted estimator, (n,) each; errors are NaN where ``predict`` has no such option."""
    if not has_errors(estimator):
        return np.asarray(estimator.predict(X)), np.full(len(X), np.nan)
    tau_hat, std_err = estimator.predict(X, std_err=True)
    return np.asarray(tau_hat), np.asarray(std_err)


def check_effects(
    values: Any, estimator: CateEstimator, length: int, *, what: str = "predictions", allow_gaps: bool = False
) -> FloatArray:
    """Estimates (length,) of an estimator as float64.

    Raises
    ------
    EvaluationError
        Naming the estimator and the shape, or the count of those that are not finite unless gaps are allowed.
    """
    name, found = type(estimator).__name__, np.asarray(values, dtype=np.float64)
    if found.shape != (length,):
        raise EvaluationError(f"{name} gave {what} of shape {found.shape}, ({length},) is needed")
    bad = int((~np.isfinite(found)).sum())
    if bad and not allow_gaps:
        raise EvaluationError(
            f"{name} gave {bad} NaN or infinite {what} of {length}: impute the features, grow more trees, or choose "
            "an estimator that takes missing values"
        )
    return found
