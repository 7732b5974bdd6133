"""A causal forest for trials: known propensities, and bags, honesty and out-of-bag predictions by group."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import joblib
import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.estimators.forest.estimates import Bag, Estimates, estimate_rows
from eo_cate.estimators.forest.features import Scaling, check_features, distinct_rows, fit_scaling, tree_matrix
from eo_cate.estimators.forest.trees import MAX_SEED, GrowOptions, grow_tree, load_engine, split_moments, unit_moments
from eo_cate.stats import checks
from eo_cate.types import BoolArray, FeatureBlocks, FloatArray, IntArray, as_blocks

logger = logging.getLogger(__name__)

MIN_GROUPS = 10
_SLACK = 1e-5  # so that rounding does not decide on a share that is exactly the least allowed
_MAX_ROWS = 1024
_MAX_LEAVES = 2**24


@dataclass(frozen=True)
class OobPrediction:
    """Out-of-bag estimates of the training units, shape (n,): from the bags that leave the unit's group out."""

    tau_hat: FloatArray
    std_err: FloatArray


@dataclass(frozen=True)
class _Fitted:
    X: FeatureBlocks
    scaling: Scaling
    codes: IntArray
    bags: tuple[Bag, ...]
    in_bag: BoolArray


@dataclass(frozen=True)
class _Units:
    Y: FloatArray
    W: FloatArray
    propensity: FloatArray
    weights: FloatArray
    codes: IntArray
    Y_hat: FloatArray


class CausalForest:
    """Generalised random forest for tau(x) (Athey, Tibshirani, Wager 2019; Athey, Wager 2019).

    Every draw is by group: a bag holds a share of the groups, its two trees each split the bag's groups into a split
    half and an estimation half, and out-of-bag means that the unit's group is not in the bag.

    Parameters
    ----------
    num_trees : int
        An even number: two trees share a bag (grf's ``ci.group.size`` 2).
    sample_fraction : float
        Share of the groups in each bag.
    mtry : int or None
        Features tried per node; None: min(ceil(sqrt p) + 20, p). Capped at p.
    min_node_size : int
        Each child keeps at least twice as many units of the split half (grf asks for so many treated and so many
        controls; econml can only count units, and bound the share of each arm: ``alpha``).
    honesty_fraction : float
        Share of a bag's groups that chooses the splits; the others fill the leaves.
    alpha : float
        Least share of the node's units in each child, below .5, and least share of each arm in a child (or half of
        the arm's share by design where that is less).
    seed : int
        Of all draws.
    num_threads : int
        Threads; the result does not depend on it.
    """

    def __init__(
        self,
        num_trees: int = 2000,
        *,
        sample_fraction: float = 0.5,
        mtry: int | None = None,
        min_node_size: int = 5,
        honesty_fraction: float = 0.5,
        alpha: float = 0.05,
        seed: int = 0,
        num_threads: int = 1,
    ) -> None:
        self.num_trees = num_trees
        self.sample_fraction = sample_fraction
        self.mtry = mtry
        self.min_node_size = min_node_size
        self.honesty_fraction = honesty_fraction
        self.alpha = alpha
        self.seed = seed
        self.num_threads = num_threads
        self._fitted: _Fitted | None = None
        self._check_options()

    def fit(
        self,
        X: FeatureBlocks | NDArray[Any],
        Y: FloatArray,
        W: FloatArray,
        *,
        propensity: FloatArray,
        sample_weights: FloatArray | None = None,
        groups: IntArray | None = None,
        Y_hat: FloatArray | float | None = None,
    ) -> Self:
        """Grow the forest on W - propensity and Y - Y_hat.

        Parameters
        ----------
        X : FeatureBlocks or (n, p) array
            NaN = missing: set to the training mean, with an indicator column.
        Y, W : (n,)
            Outcome, and treatment in {0, 1}.
        propensity : (n,) or float
            P(W = 1) by design.
        sample_weights : (n,) or None
            Enter split scores and leaf means; units of weight 0 only get out-of-bag predictions.
        groups : (n,) int or str, or None
            The indivisible blocks of every draw; None: each unit is its own. Their labels do not matter.
        Y_hat : (n,) or float or None
            E[Y | x] of other groups; None: the weighted mean of Y.

        Raises
        ------
        EstimationError
            Naming the argument, what was found and what to change.
        """
        blocks = as_blocks(X)
        check_features(blocks)
        units = _check_units(len(blocks), Y, W, propensity, sample_weights, groups, Y_hat)
        scaling = fit_scaling(blocks)
        matrix = np.asfortranarray(tree_matrix(blocks, scaling))
        codes = np.where(units.weights > 0, units.codes, -1)
        num_groups = int(units.codes.max()) + 1
        active = np.flatnonzero(np.bincount(codes[codes >= 0], minlength=num_groups))
        if len(active) < MIN_GROUPS:
            raise EstimationError(
                f"`groups` holds {len(active)} groups with positive weight, at least {MIN_GROUPS} are needed: "
                "a forest cannot be grown on so few clusters"
            )
        in_bag, bags = self._grow_bags(matrix, units, codes, active, num_groups)
        self._fitted = _Fitted(X=blocks, scaling=scaling, codes=units.codes, bags=bags, in_bag=in_bag)
        return self

    @overload
    def predict(self, X: FeatureBlocks | NDArray[Any], std_err: Literal[False] = False) -> FloatArray: ...
    @overload
    def predict(self, X: FeatureBlocks | NDArray[Any], std_err: Literal[True]) -> tuple[FloatArray, FloatArray]: ...
    def predict(
        self, X: FeatureBlocks | NDArray[Any], std_err: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """tau_hat of units of other groups, shape (n,), with standard errors on request.

        The units of the training groups belong in `oob`. With many more features than sites the interval
        tau_hat +- 1.96 std_err covers the truth far less often than 95 % (bias): never show it as such.

        Raises
        ------
        EstimationError
            Before `fit`, and when the features are not those of `fit`.
        """
        fitted = self._require_fitted()
        blocks = as_blocks(X)
        check_features(blocks)
        names, known = blocks.names, fitted.scaling.names
        if len(names) != len(known) or (isinstance(X, FeatureBlocks) and names != known):
            odd = sorted(set(names) ^ set(known))[:5] or "the order differs"
            raise EstimationError(
                f"`X` has {len(names)} columns that are not the {len(known)} of `fit` ({odd}): give the same features"
            )
        rows, inverse = distinct_rows(blocks)
        estimates = self._estimate(blocks.take(rows), None, std_err)
        tau_hat = estimates.tau_hat[inverse]
        _report_gaps(tau_hat)
        return tau_hat if estimates.std_err is None else (tau_hat, estimates.std_err[inverse])

    def oob(self) -> OobPrediction:
        """Out-of-bag tau_hat and std_err of the training units, in their order.

        Raises
        ------
        EstimationError
            Before `fit`.
        """
        fitted = self._require_fitted()
        rows, inverse = distinct_rows(fitted.X, fitted.codes)
        estimates = self._estimate(fitted.X.take(rows), fitted.codes[rows], True)
        assert estimates.std_err is not None
        _report_gaps(estimates.tau_hat[inverse])
        return OobPrediction(tau_hat=estimates.tau_hat[inverse], std_err=estimates.std_err[inverse])

    def _estimate(self, X: FeatureBlocks, codes: IntArray | None, std_err: bool) -> Estimates:
        fitted = self._require_fitted()
        size = int(np.clip(_MAX_LEAVES // self.num_trees, 64, _MAX_ROWS))

        def work(start: int) -> Estimates:
            rows = np.arange(start, min(start + size, len(X)))
            use = None if codes is None else ~fitted.in_bag[:, codes[rows]]
            matrix = tree_matrix(X.take(rows), fitted.scaling)
            return estimate_rows(fitted.bags, matrix, use=use, std_err=std_err)

        parts = _run_threads(work, range(0, len(X), size), self.num_threads)
        errors = [part.std_err for part in parts if part.std_err is not None]
        return Estimates(
            tau_hat=np.concatenate([np.empty(0), *(part.tau_hat for part in parts)]),
            std_err=np.concatenate([np.empty(0), *errors]) if std_err else None,
        )

    def _grow_bags(
        self, matrix: FloatArray, units: _Units, codes: IntArray, active: IntArray, num_groups: int
    ) -> tuple[BoolArray, tuple[Bag, ...]]:
        """Membership of groups, shape (bags, G), and the two trees of each bag. Rows of code -1 are never drawn."""
        load_engine()
        Y, W = units.Y - units.Y_hat, units.W - units.propensity
        split, moments = split_moments(Y, units.W, units.propensity), unit_moments(Y, W, units.weights)
        weights = None if np.ptp(units.weights) == 0 else units.weights
        options = self._grow_options(matrix.shape[1], float(np.mean(units.propensity)))
        bag_size = max(int(len(active) * self.sample_fraction), 2)
        split_size = int(np.clip(round(bag_size * self.honesty_fraction), 1, bag_size - 1))

        def work(b: int) -> tuple[IntArray, Bag]:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(b,)))
            drawn = rng.permutation(active)[:bag_size]
            plans = [(rng.permutation(drawn), rng.integers(1, MAX_SEED, size=2)) for _ in range(2)]
            first, second = (
                grow_tree(
                    matrix,
                    split,
                    moments,
                    split_rows=_rows_of(order[:split_size], codes, num_groups),
                    estimation_rows=_rows_of(order[split_size:], codes, num_groups),
                    weights=weights,
                    options=options,
                    seeds=(int(seeds[0]), int(seeds[1])),
                )
                for order, seeds in plans
            )
            return drawn, (first, second)

        grown = _run_threads(work, range(self.num_trees // 2), self.num_threads)
        in_bag = np.zeros((len(grown), num_groups), dtype=np.bool_)
        for b, (drawn, _) in enumerate(grown):
            in_bag[b, drawn] = True
        return in_bag, tuple(bag for _, bag in grown)

    def _grow_options(self, p: int, mean_propensity: float) -> GrowOptions:
        mtry = min(math.ceil(math.sqrt(p)) + 20, p) if self.mtry is None else min(self.mtry, p)
        share = min(self.alpha, mean_propensity / 2, (1 - mean_propensity) / 2) * (1 - _SLACK)
        return GrowOptions(mtry=mtry, min_leaf=2 * self.min_node_size, alpha=self.alpha, min_arm_share=share)

    def _check_options(self) -> None:
        if self.num_trees < 2 or self.num_trees % 2:
            raise EstimationError(f"`num_trees` is {self.num_trees}: give an even number, two trees share a bag")
        for name in ("min_node_size", "mtry", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EstimationError(f"`{name}` is {value}: give 1 or more")
        for name, upper in (("sample_fraction", 1.0), ("honesty_fraction", 1.0), ("alpha", 0.5)):
            if not 0 < getattr(self, name) < upper:
                raise EstimationError(f"`{name}` is {getattr(self, name)}: give a number between 0 and {upper:g}")

    def _require_fitted(self) -> _Fitted:
        if self._fitted is None:
            raise EstimationError("this CausalForest is not fitted: call `fit` first")
        return self._fitted


def _rows_of(groups: IntArray, codes: IntArray, num_groups: int) -> IntArray:
    member = np.zeros(num_groups + 1, dtype=np.bool_)  # the last place answers code -1
    member[groups] = True
    return np.flatnonzero(member[codes])


def _run_threads(work: Any, items: Sequence[int], num_threads: int) -> list[Any]:
    if num_threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    done: list[Any] = joblib.Parallel(n_jobs=num_threads, backend="threading")(joblib.delayed(work)(i) for i in items)
    return done


def _report_gaps(tau_hat: FloatArray) -> None:
    gaps = int(np.isnan(tau_hat).sum())
    if gaps:
        logger.warning(
            "%d of %d units have no tau_hat: no tree, or no variation of W, speaks for them", gaps, len(tau_hat)
        )


def _check_units(
    n: int, Y: Any, W: Any, propensity: Any, sample_weights: Any, groups: Any, Y_hat: FloatArray | float | None
) -> _Units:
    try:
        outcome, treatment = checks.vector("Y", Y, length=n), checks.treatment_vector(W, n)
        known = checks.propensity_vector(propensity, n)
        weights = checks.weights_vector(sample_weights, n)
        codes, _ = checks.group_codes(groups, n)
        weights = weights / weights.mean()
        centre = np.average(outcome, weights=weights) if Y_hat is None else Y_hat
        fitted = checks.vector("Y_hat", np.full(n, centre) if np.ndim(centre) == 0 else centre, length=n)
    except EvaluationError as error:
        raise EstimationError(str(error)) from error
    treated = int(treatment[weights > 0].sum())
    if treated in (0, int((weights > 0).sum())):
        raise EstimationError(f"`W` has {treated} treated units of {n}: both arms are needed to learn an effect")
    return _Units(Y=outcome, W=treatment, propensity=known, weights=weights, codes=codes, Y_hat=fitted)
