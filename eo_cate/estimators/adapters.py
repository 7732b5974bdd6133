"""Estimators of other packages as `CateEstimator`s."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.estimators.features import check_features, check_same_features
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.types import FeatureBlocks, FloatArray, as_blocks

logger = logging.getLogger(__name__)

_KEYWORDS = {
    "propensity": ("propensity",),
    "sample_weights": ("sample_weights", "sample_weight"),
    "groups": ("groups",),
}


class AdaptedLearner:
    """Another package's learner, made by `from_sklearn_like` or `from_econml`.

    Every `fit` trains a copy: the learner that was given stays as it was, and a refit knows nothing of the last one.

    Parameters
    ----------
    learner : object
    keywords : tuple of (str, str)
        Names in `fit` of Y and of W, e.g. ("Y", "T"), or ("", "") when X, Y and W go by position.
    effect : str
        Method that gives the effect of a matrix of features.
    allow_missing : bool
        Whether features may be NaN.

    Attributes
    ----------
    passes : dict of str
        Which of ``propensity``, ``sample_weights`` and ``groups`` the learner's `fit` takes, and under which name. The
        others do not reach it.
    """

    def __init__(
        self,
        learner: Any,
        *,
        keywords: tuple[str, str] = ("", ""),
        effect: str = "predict",
        allow_missing: bool = False,
    ) -> None:
        for method in ("fit", effect):
            if not callable(getattr(learner, method, None)):
                raise EstimationError(f"{type(learner).__name__} has no method `{method}`: it cannot be adapted so")
        self.learner = learner
        self.keywords = keywords
        self.effect = effect
        self.allow_missing = allow_missing
        accepted = inspect.signature(learner.fit).parameters
        _check_arguments(learner, keywords, accepted)
        found = {ours: next((name for name in names if name in accepted), "") for ours, names in _KEYWORDS.items()}
        self.passes = {ours: name for ours, name in found.items() if name}
        self._fitted: Any = None
        self._names: tuple[str, ...] = ()

    def fit(
        self,
        X: FeatureBlocks | NDArray[Any],
        Y: ArrayLike,
        W: ArrayLike,
        *,
        propensity: ArrayLike | None = None,
        sample_weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit a copy of the learner on n units; returns self.

        Parameters
        ----------
        X : FeatureBlocks or (n, p)
            Gathered to one row per unit, float64.
        Y, W : (n,)
            Outcome, and treatment in {0, 1}.
        propensity : (n,) or scalar, optional
        sample_weights : (n,), optional
        groups : (n,) labels, optional
            Numbered 0..G-1 before they are passed. See `passes`.

        Raises
        ------
        EstimationError
            On bad vectors, one arm, and missing or infinite features (naming the columns).
        """
        blocks = as_blocks(X)
        n = len(blocks)
        matrix = _to_matrix(blocks, allow_missing=self.allow_missing)
        try:
            outcome, treatment = vector("Y", Y, length=n), treatment_vector(W, n)
            options = {
                "propensity": None if propensity is None else propensity_vector(propensity, n),
                "sample_weights": None if sample_weights is None else weights_vector(sample_weights, n),
                "groups": None if groups is None else group_codes(groups, n)[0],
            }
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        if not 0 < treatment.sum() < n:
            raise EstimationError(f"`W` has {int(treatment.sum())} treated units of {n}: both arms are needed")
        extra = {name: options[ours] for ours, name in self.passes.items() if options[ours] is not None}
        fitted = copy.deepcopy(self.learner)
        if self.keywords == ("", ""):
            fitted.fit(matrix, outcome, treatment, **extra)
        else:
            fitted.fit(**{self.keywords[0]: outcome, self.keywords[1]: treatment, "X": matrix}, **extra)
        self._fitted, self._names = fitted, blocks.names
        return self

    def predict(self, X: FeatureBlocks | NDArray[Any]) -> FloatArray:
        """tau_hat, shape (n,); NaN where the learner gives none, which is counted in the log.

        Raises
        ------
        EstimationError
            Before `fit`, when the features are not those of `fit`, and when the learner's result has another shape.
        """
        if self._fitted is None:
            raise EstimationError(f"this adapted {type(self.learner).__name__} is not fitted: call `fit` first")
        blocks = as_blocks(X)
        check_same_features(blocks, self._names, by_name=isinstance(X, FeatureBlocks))
        matrix = _to_matrix(blocks, allow_missing=self.allow_missing)
        found = np.asarray(getattr(self._fitted, self.effect)(matrix), dtype=np.float64)
        if found.size != len(blocks):
            raise EstimationError(
                f"{type(self.learner).__name__}.{self.effect} gave shape {found.shape} for {len(blocks)} units: one "
                "effect per unit is needed"
            )
        gaps = int((~np.isfinite(found)).sum())
        if gaps:
            logger.warning("%s gave no finite effect for %d of %d units", type(self.learner).__name__, gaps, found.size)
        return np.where(np.isfinite(found), found, np.nan).reshape(len(blocks))


def from_sklearn_like(learner: Any, *, allow_missing: bool = False) -> AdaptedLearner:
    """Any object with ``fit(X, Y, W)`` and ``predict(X)`` -> tau_hat as a `CateEstimator`.

    ``propensity``, ``sample_weights`` (or ``sample_weight``) and ``groups`` reach it where its `fit` names them. A
    learner that does not take ``groups`` may split units of one village over its own folds: its tuning is then
    optimistic, while evaluation by `sequential_rate`, which splits outside of it, stays sound.

    Parameters
    ----------
    learner : object
        Copied by every `fit`; give it a fixed seed.
    allow_missing : bool
        Whether it takes NaN among the features.

    Raises
    ------
    EstimationError
        When a method is absent, or `fit` does not take three arguments.
    """
    return AdaptedLearner(learner, allow_missing=allow_missing)


def from_econml(learner: Any, *, allow_missing: bool = False) -> AdaptedLearner:
    """An econml learner with ``fit(Y, T, X=...)`` and ``effect(X)`` as a `CateEstimator`.

    All features go in as X (none as econml's W). Known propensities do not reach it: econml estimates its own, from
    ``model_t`` or ``model_propensity``. ``sample_weight`` and ``groups`` (of its cross-fitting) reach it where its
    `fit` names them; econml's forests still draw units, not groups, so use them for comparison.

    Parameters
    ----------
    learner : econml estimator
        E.g. ``LinearDML(discrete_treatment=True, random_state=0)``; copied by every `fit`.
    allow_missing : bool
        Whether it was built with ``allow_missing=True`` and models that take NaN.

    Raises
    ------
    EstimationError
        When `effect` is absent (``econml.grf``: use ``econml.dml.CausalForestDML``), or `fit` takes other arguments.
    """
    return AdaptedLearner(learner, keywords=("Y", "T"), effect="effect", allow_missing=allow_missing)


def _check_arguments(learner: Any, keywords: tuple[str, str], accepted: Any) -> None:
    name = type(learner).__name__
    if keywords == ("", ""):
        places = [p for p in accepted.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(places) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in accepted.values()):
            raise EstimationError(
                f"{name}.fit takes {len(places)} arguments, X, Y and W are needed: wrap it in a learner"
            )
        return
    absent = [key for key in (*keywords, "X") if key not in accepted]
    if absent:
        raise EstimationError(f"{name}.fit takes no argument {absent}: it has {list(accepted)}")


def _to_matrix(X: FeatureBlocks, *, allow_missing: bool) -> FloatArray:
    """One row per unit, (n, p) float64.

    Raises
    ------
    EstimationError
        Naming the count and the columns of what is missing or infinite.
    """
    check_features(X)
    matrix = X.gather().astype(np.float64)
    missing = np.isnan(matrix)
    if missing.any() and not allow_missing:
        columns = [X.names[j] for j in np.flatnonzero(missing.any(axis=0))]
        shown = ", ".join(columns[:5]) + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")
        raise EstimationError(
            f"`X` has {int(missing.sum())} missing values in column(s) {shown}: impute them, or use CausalForest or "
            "RidgeR, which take them"
        )
    return matrix
