"""Procedures around any estimator: fits on sets of blocks, put together afterwards."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.multiscale.average_evidence import HonestEffects
from eo_cate.multiscale.blocks import block_labels, order_by_scale, take_blocks
from eo_cate.stats.params import Parameters
from eo_cate.stats.training import TrainingUnits, check_effects, predict_with_errors
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray

BlockSets = Sequence[Sequence[str]]


class _Members(Parameters, ABC):
    """Fitted copies of estimators, each on its set of blocks; tau_hat = their values times ``weights_``."""

    _units: TrainingUnits | None = None
    _names: tuple[str, ...] = ()
    members_: list[Any]
    sets_: list[tuple[str, ...]]
    weights_: FloatArray

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
        """Fit on n units; returns self. Y is the outcome less m_hat, as for every `CateEstimator`.

        Raises
        ------
        EstimationError
            On bad vectors, unknown blocks, a plain array (it does not say which columns are a block), or when weights
            or next steps would rest on estimates that are NaN.
        """
        blocks = _require_blocks(X, type(self).__name__)
        try:
            units = TrainingUnits.of(blocks, Y, W, propensity=propensity, sample_weights=sample_weights, groups=groups)
            self._units, self._names = None, blocks.names
            self._fit_members(units)
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        self._units = units
        return self

    def predict(self, X: FeatureBlocks | NDArray[Any]) -> FloatArray:
        """tau_hat, shape (n,); NaN where a member gives NaN.

        Raises
        ------
        EstimationError
            Before `fit`, or when the columns are not those of `fit`.
        """
        return self._weigh([one.predict(part) for one, part in self._parts(X)], len(X))

    @abstractmethod
    def _fit_members(self, units: TrainingUnits) -> None:
        """Set ``members_``, ``sets_`` and ``weights_``."""

    def _parts(self, X: FeatureBlocks | NDArray[Any]) -> list[tuple[Any, FeatureBlocks]]:
        """Each member, and the blocks that it sees."""
        self._require_fit()
        blocks = _require_blocks(X, type(self).__name__)
        if blocks.names != self._names:
            raise EstimationError(f"`X` has {len(blocks.names)} columns that are not the {len(self._names)} of `fit`")
        return [(one, take_blocks(blocks, labels)) for one, labels in zip(self.members_, self.sets_, strict=True)]

    def _weigh(self, values: Sequence[Any], length: int) -> FloatArray:
        """Values (length,) of the members times their weights, summed."""
        pairs = zip(values, self.members_, strict=True)
        try:
            found = [check_effects(each, one, length, allow_gaps=True) for each, one in pairs]
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        return np.asarray(self.weights_ @ np.stack(found))

    def _require_fit(self) -> TrainingUnits:
        if self._units is None:
            raise EstimationError(f"this {type(self).__name__} is not fitted: call `fit` first")
        return self._units


class _Chosen(_Members):
    """Members whose weights or targets rest on the outcomes of all groups; on one set of blocks nothing is chosen."""

    _only: bool = False

    @property
    def oob(self) -> Any:
        """The member's `oob` where there was a single set of blocks; else there are no estimates out of group."""
        if not self._only:
            raise AttributeError(f"{type(self).__name__} chose among sets of blocks by the outcomes of all groups")
        return self.members_[0].oob


class _Mean(_Members):
    """Members of equal weights that no outcome chose: what is known of each holds for their mean."""

    seed: int

    @overload
    def predict(self, X: FeatureBlocks | NDArray[Any], std_err: Literal[False] = False) -> FloatArray: ...
    @overload
    def predict(self, X: FeatureBlocks | NDArray[Any], std_err: Literal[True]) -> tuple[FloatArray, FloatArray]: ...
    def predict(
        self, X: FeatureBlocks | NDArray[Any], std_err: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """tau_hat, shape (n,), with a standard error on request; NaN where a member gives NaN.

        The standard error is the mean of the members'. Errors of fits on the same data go together to an unknown
        degree, and the standard deviation of a mean is at most the mean of standard deviations: it is an upper bound,
        reached where the members' errors are the same. NaN where a member has none.

        Raises
        ------
        EstimationError
            Before `fit`, or when the columns are not those of `fit`.
        """
        parts = self._parts(X)
        if not std_err:
            return self._weigh([one.predict(part) for one, part in parts], len(X))
        found = [predict_with_errors(one, part) for one, part in parts]
        return self._weigh([tau_hat for tau_hat, _ in found], len(X)), self._weigh([se for _, se in found], len(X))

    def oob(self) -> HonestEffects:
        """tau_hat of the training units, each by fits without its group; NaN where a member gives NaN."""
        units = self._require_fit()
        found = [
            _part(units, labels).honest_effects(estimator, one, seed=self.seed, allow_gaps=True)
            for estimator, labels, one in zip(self._given(), self.sets_, self.members_, strict=True)
        ]
        return HonestEffects(np.asarray(self.weights_ @ np.stack(found)))

    @abstractmethod
    def _given(self) -> Sequence[CateEstimator]:
        """The estimator that each member is a fitted copy of."""


class BlockAverage(_Mean):
    """Mean of fits on single blocks (or on other sets of blocks): no choice, so nothing to pay for.

    Parameters
    ----------
    estimator : CateEstimator
        Copied for each set.
    sets : sequence of sequences of str, optional
        Labels of the blocks of each fit; every block alone when absent.
    seed : int
        Of the folds behind `oob` for an estimator without one of its own.
    """

    def __init__(self, estimator: CateEstimator, *, sets: BlockSets | None = None, seed: int = 0) -> None:
        self.estimator = estimator
        self.sets = sets
        self.seed = seed

    def _fit_members(self, units: TrainingUnits) -> None:
        self.sets_ = _resolve_sets(units.blocks, self.sets, with_all=False)
        self.members_ = [_part(units, labels).fit(self.estimator) for labels in self.sets_]
        self.weights_ = np.full(len(self.sets_), 1 / len(self.sets_))

    def _given(self) -> Sequence[CateEstimator]:
        return [self.estimator] * len(self.members_)


class MeanOf(_Mean):
    """Mean of several estimators on all blocks, such as `AverageEvidence` and a forest, whose errors differ.

    Parameters
    ----------
    estimators : sequence of CateEstimator
    seed : int
        Of the folds behind `oob` for an estimator without one of its own.
    """

    def __init__(self, estimators: Sequence[CateEstimator], *, seed: int = 0) -> None:
        self.estimators = estimators
        self.seed = seed

    def _fit_members(self, units: TrainingUnits) -> None:
        if not self.estimators:
            raise EvaluationError("`estimators` is empty: give at least one")
        self.members_ = [units.fit(estimator) for estimator in self.estimators]
        self.sets_ = [block_labels(units.blocks)] * len(self.members_)
        self.weights_ = np.full(len(self.members_), 1 / len(self.members_))

    def _given(self) -> Sequence[CateEstimator]:
        return self.estimators


class Stack(_Chosen):
    """Weighted mean of fits on single blocks and on all together; weights minimise the R-risk out of group.

    Weights are non-negative and sum to 1. They have seen every training group, so there is no `oob` but for a single
    set: what needs the R-risk of this procedure cross-fits it as a whole.

    Parameters
    ----------
    estimator : CateEstimator
        Copied for each set.
    sets : sequence of sequences of str, optional
        Every block alone, and all together, when absent.
    seed : int
        Of the folds for an estimator without `oob`.

    Notes
    -----
    With rho_k = Y - (W - e) tau_hat_k, the weights minimise |sum a_k rho_k|^2 over the simplex. Non-negative least
    squares of (0, .., 0, 1) on (rho; 1) gives a multiple of them: for x = s a the minimum over s is q / (1 + q), which
    increases in q = |sum a_k rho_k|^2.
    """

    def __init__(self, estimator: CateEstimator, *, sets: BlockSets | None = None, seed: int = 0) -> None:
        self.estimator = estimator
        self.sets = sets
        self.seed = seed

    def _fit_members(self, units: TrainingUnits) -> None:
        self.sets_, self.members_, effects = _fit_honestly(units, self.estimator, self.sets, self.seed)
        self.weights_, self._only = stack_weights(units, effects), len(self.sets_) == 1


class Select(_Chosen):
    """The one fit with the least R-risk out of group among single blocks and all together.

    **Warning: it loses** where several scales carry signal, and METHODS.md, section 8, found every such choice to lose
    on average at 100 to 150 villages. On the demo scene (docs/procedures.md) its ranking fell short of concatenation
    with signal at two scales, and gained where one scale held all: which of the two it is, a trial does not tell.
    Prefer `AverageEvidence` or `BlockAverage`. As `Stack`, it has no `oob`.

    Parameters as of `Stack`.
    """

    def __init__(self, estimator: CateEstimator, *, sets: BlockSets | None = None, seed: int = 0) -> None:
        self.estimator = estimator
        self.sets = sets
        self.seed = seed

    def _fit_members(self, units: TrainingUnits) -> None:
        sets, members, effects = _fit_honestly(units, self.estimator, self.sets, self.seed)
        self.r_risks_ = np.array([units.r_risk(tau_hat) for tau_hat in effects])
        best = int(np.argmin(self.r_risks_))
        self.sets_, self.members_, self.weights_ = [sets[best]], [members[best]], np.ones(1)
        self._only = len(sets) == 1


class Residual(_Chosen):
    """Coarse blocks first, then what finer ones add: each next fit is on Y - (W - e) tau_hat of the sum so far.

    The tau_hat that is subtracted is out of group; what the coarse fit remembers of a unit's own outcome would
    otherwise be missing from the fine one's data. No `oob`: later fits have seen the outcomes of all groups through it.

    Parameters
    ----------
    estimator : CateEstimator
        Copied for each step.
    sets : sequence of sequences of str, optional
        Blocks of each step, coarse to fine. Absent: blocks without a scale (tabular, location) first, then
        ``image_<scale>`` from the largest scale to the smallest.
    seed : int
        Of the folds for an estimator without `oob`.
    """

    def __init__(self, estimator: CateEstimator, *, sets: BlockSets | None = None, seed: int = 0) -> None:
        self.estimator = estimator
        self.sets = sets
        self.seed = seed

    def _fit_members(self, units: TrainingUnits) -> None:
        steps = order_by_scale(block_labels(units.blocks)) if self.sets is None else self.sets
        self.sets_ = _resolve_sets(units.blocks, steps, with_all=False)
        self.members_ = []
        for step, labels in enumerate(self.sets_):
            part = _part(units, labels)
            self.members_.append(part.fit(self.estimator))
            if step + 1 < len(self.sets_):
                tau_hat = part.honest_effects(self.estimator, self.members_[-1], seed=self.seed)
                units = units.with_outcome(units.residual(tau_hat))
        self.weights_, self._only = np.ones(len(self.sets_)), len(self.sets_) == 1


class BalanceBlocks(Parameters):
    """Give each block the same chance at a forest's nodes: ``feature_weights`` of 1 / width per column.

    A forest does not feel the scale of its columns, so a block of 400 columns crowds out one of 2 otherwise.

    Parameters
    ----------
    estimator : CateEstimator
        With a parameter ``feature_weights`` that `set_params` sets, as `CausalForest` has.
    """

    def __init__(self, estimator: CateEstimator) -> None:
        self.estimator = estimator
        self._fitted: Any = None

    def fit(self, X: FeatureBlocks | NDArray[Any], Y: ArrayLike, W: ArrayLike, **options: Any) -> Self:
        """Fit a copy of the estimator with weights from the blocks of X; ``options`` go to its `fit`.

        Raises
        ------
        EstimationError
            When the estimator has no ``feature_weights``, or X is a plain array.
        """
        blocks = _require_blocks(X, type(self).__name__)
        fitted: Any = copy.deepcopy(self.estimator)
        if "feature_weights" not in (fitted.get_params() if hasattr(fitted, "get_params") else {}):
            raise EstimationError(
                f"{type(fitted).__name__} has no parameter `feature_weights`: blocks can only be balanced for an "
                "estimator that draws columns, such as CausalForest"
            )
        widths = {label: blocks.blocks.count(label) for label in set(blocks.blocks)}
        fitted.set_params(feature_weights=np.array([1 / widths[label] for label in blocks.blocks]))
        self._fitted = fitted.fit(blocks, Y, W, **options)
        return self

    def predict(self, X: FeatureBlocks | NDArray[Any], **options: Any) -> Any:
        """tau_hat, shape (n,); ``options`` (such as ``std_err=True``) go to the estimator's `predict`."""
        if self._fitted is None:
            raise EstimationError("this BalanceBlocks is not fitted: call `fit` first")
        return self._fitted.predict(X, **options)

    @property
    def oob(self) -> Any:
        """The fitted estimator's `oob`, where it has one."""
        fitted: Any = self.estimator if self._fitted is None else self._fitted
        return fitted.oob

    @property
    def variable_importance(self) -> Any:
        """The fitted estimator's `variable_importance`, where it has one."""
        fitted: Any = self.estimator if self._fitted is None else self._fitted
        return fitted.variable_importance


def stack_weights(units: TrainingUnits, effects: Sequence[FloatArray]) -> FloatArray:
    """Weights (K,) on the simplex that minimise the R-risk of the weighted mean of K vectors of effects (n,)."""
    omega = np.ones(len(units.Y)) if units.sample_weights is None else units.sample_weights
    rho = np.sqrt(omega)[:, None] * np.column_stack([units.residual(tau_hat) for tau_hat in effects])
    size = np.sqrt((rho**2).sum(axis=0).mean())
    if size == 0:
        return np.full(len(effects), 1 / len(effects))
    triangle = np.linalg.qr(rho / size, mode="r")
    found, _ = nnls(np.vstack([triangle, np.ones(len(effects))]), np.append(np.zeros(len(triangle)), 1.0))
    return np.asarray(found / found.sum())


def _fit_honestly(
    units: TrainingUnits, estimator: CateEstimator, sets: BlockSets | None, seed: int
) -> tuple[list[tuple[str, ...]], list[Any], list[FloatArray]]:
    """Sets of blocks, the fits on them, and their effects out of group."""
    resolved = _resolve_sets(units.blocks, sets, with_all=True)
    parts = [_part(units, labels) for labels in resolved]
    members = [part.fit(estimator) for part in parts]
    effects = [part.honest_effects(estimator, one, seed=seed) for part, one in zip(parts, members, strict=True)]
    return resolved, members, effects


def _part(units: TrainingUnits, labels: Sequence[str]) -> TrainingUnits:
    return units.with_features(take_blocks(units.blocks, labels))


def _resolve_sets(X: FeatureBlocks, sets: BlockSets | None, *, with_all: bool) -> list[tuple[str, ...]]:
    labels = block_labels(X)
    if not labels:
        raise EvaluationError("`X` has no columns: give at least one block of features")
    if sets is None:
        singles: list[tuple[str, ...]] = [(label,) for label in labels]
        return [*singles, labels] if with_all and len(labels) > 1 else singles
    if not sets or not all(sets):
        raise EvaluationError("`sets` holds an empty set: name at least one block in each")
    return [tuple(labels) for labels in sets]


def _require_blocks(X: Any, name: str) -> FeatureBlocks:
    if not isinstance(X, FeatureBlocks):
        raise EstimationError(f"{name} needs a FeatureBlocks, found {type(X).__name__}: only it knows the blocks")
    return X
