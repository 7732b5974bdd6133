"""A causal forest for trials: known propensities, and bags, honesty and out-of-bag predictions by group."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.estimators.features import check_same_features, to_blocks
from eo_cate.estimators.forest.arguments import Units, check_refits, check_units
from eo_cate.estimators.forest.options import MIN_GROUPS, ForestOptions, check_feature_weights
from eo_cate.stats import checks
from eo_cate.types import FeatureBlocks, FloatArray, IntArray

if TYPE_CHECKING:
    from eo_cate.estimators.forest.grow import Trees
    from eo_cate.estimators.forest.rows import FeatureBins, Rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OobPrediction:
    """Out-of-bag estimates of the training units, shape (n,): from the bags that leave the unit's group out.

    ``Y_hat`` and ``W_hat`` are what outcome and treatment were centred at.
    """

    tau_hat: FloatArray
    std_err: FloatArray
    Y_hat: FloatArray
    W_hat: FloatArray


@dataclass(frozen=True)
class Fitted:
    """What predictions need of a fit: bins, trees, and the codes of the training rows for those out of bag.

    ``rows`` and ``weights`` (of units) are what refits need too; a file holds neither.
    """

    bins: FeatureBins
    trees: Trees
    row_codes: NDArray[np.uint8]
    row_group: IntArray
    row_of_unit: IntArray
    Y_hat: FloatArray
    W_hat: FloatArray
    blocks: tuple[str, ...]
    rows: Rows | None = None
    weights: FloatArray | None = None


class CausalForest(ForestOptions):
    """Generalised random forest for tau(x) (Athey, Tibshirani, Wager 2019; Athey, Wager 2019).

    Every draw is by group: a bag holds a share of the groups, its two trees each split the bag's groups into a split
    half and an estimation half, and out-of-bag means that the unit's group is not in the bag. Where units share their
    features the work and memory scale with the sites.

    Parameters
    ----------
    num_trees : int
        An even number: two trees share a bag (grf's ``ci.group.size`` 2). 10,000 or more with embeddings: the ranking
        of two seeds agrees only then.
    sample_fraction : float
        Share of the groups in each bag.
    mtry : int or None
        Mean of the Poisson number of features tried per node; None: min(ceil(sqrt p) + 20, p).
    min_node_size : int
        Least number of treated and of control units of the split half in each child.
    honesty_fraction : float
        Share of a bag's groups that chooses the splits; the others fill the leaves.
    alpha : float
        Least share of the node's variation of W - W_hat in each child, below .5.
    feature_weights : (p,) array or None
        Non-negative: features are drawn at a node one after the other with these chances. 0: never.
    seed : int
        Of all draws.
    num_threads : int
        Threads; the result does not depend on it.
    """

    _fitted: Fitted | None = None

    def __init__(
        self,
        num_trees: int = 2000,
        *,
        sample_fraction: float = 0.5,
        mtry: int | None = None,
        min_node_size: int = 5,
        honesty_fraction: float = 0.5,
        alpha: float = 0.05,
        feature_weights: ArrayLike | None = None,
        seed: int = 0,
        num_threads: int = 1,
    ) -> None:
        self.num_trees = num_trees
        self.sample_fraction = sample_fraction
        self.mtry = mtry
        self.min_node_size = min_node_size
        self.honesty_fraction = honesty_fraction
        self.alpha = alpha
        self.feature_weights = feature_weights
        self.seed = seed
        self.num_threads = num_threads
        self._check_options()

    def fit(
        self,
        X: FeatureBlocks | NDArray[Any],
        Y: ArrayLike,
        W: ArrayLike,
        *,
        propensity: ArrayLike | None = None,
        Y_hat: ArrayLike | Literal["forest"] | None = None,
        W_hat: ArrayLike | None = None,
        sample_weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        site_index: ArrayLike | None = None,
    ) -> Self:
        """Grow the forest on W - W_hat and Y - Y_hat.

        Parameters
        ----------
        X : FeatureBlocks, (n, p) array, or (S, p) array of unique sites with ``site_index``
            NaN = missing: at each split missing goes where the score says, or alone against all values.
        Y, W : (n,)
            Outcome, and treatment in {0, 1}.
        propensity : (n,) or float, optional
            P(W = 1) by design.
        Y_hat : (n,) or float, "forest" or None
            E[Y | x] of other groups. "forest": out-of-bag predictions of a `RegressionForest`. None: the weighted mean
            of Y when the propensity is known, else "forest", as in grf.
        W_hat : (n,) or float, optional
            An estimated P(W = 1 | x), of other groups. Neither this nor ``propensity``: by a `RegressionForest`.
        sample_weights : (n,), optional
            Enter split scores and leaf means; units of weight 0 only get out-of-bag predictions.
        groups : (n,) int or str, optional
            The indivisible blocks of every draw; None: each unit is its own. Their labels do not matter.
        site_index : (n,) int, optional
            Row of X of each unit.

        Raises
        ------
        EstimationError
            Naming the argument, what was found and what to change.
        """
        from eo_cate.estimators.forest import grow, rows

        self._check_options()
        blocks = to_blocks(X, site_index)
        units = check_units(len(blocks), Y, W, sample_weights, groups, self.min_node_size)
        chances = check_feature_weights(self.feature_weights, blocks.shape[1])
        centre_W = self._centre_treatment(blocks, units, propensity, W_hat)
        is_known = propensity is not None or W_hat is not None
        centre_Y = self._centre_outcome(blocks, units, "forest" if Y_hat is None and not is_known else Y_hat)
        bins = rows.fit_feature_bins(blocks)
        made = rows.rows_of(blocks, units.codes, units.weights)
        _check_groups(made)
        codes = bins.encode(blocks, made.first)
        counts = units.W, 1 - units.W
        moments = rows.sum_moments(made, units.Y - centre_Y, units.W - centre_W, units.weights, counts)
        rules = self._rules(grow, is_causal=True, feature_weights=chances)
        trees = grow.grow_forest(
            codes, made, moments, rules, num_trees=self.num_trees, seed=self.seed, num_threads=self.num_threads
        )
        if not (trees.nodes[:, 0] >= 0).any():
            logger.warning("no feature could be split on: tau_hat is the same, the average effect, everywhere")
        self.set_fitted(
            Fitted(bins, trees, codes, made.group, made.of_unit, centre_Y, centre_W, blocks.blocks, made, units.weights)
        )
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
        from eo_cate.estimators.forest import predict, rows

        fitted = self.require_fitted()
        blocks = to_blocks(X)
        check_same_features(blocks, fitted.bins.names, by_name=isinstance(X, FeatureBlocks))
        first, place = rows.distinct_rows(blocks)
        codes = fitted.bins.encode(blocks, first)
        tau_hat, errors = predict.estimate_effects(fitted.trees, codes, std_err=std_err, num_threads=self.num_threads)
        _report_gaps(tau_hat[place])
        return tau_hat[place] if errors is None else (tau_hat[place], errors[place])

    def oob(self) -> OobPrediction:
        """Out-of-bag tau_hat and std_err of the training units, in their order.

        Raises
        ------
        EstimationError
            Before `fit`.
        """
        from eo_cate.estimators.forest import predict

        fitted = self.require_fitted()
        tau_hat, errors = predict.estimate_effects(
            fitted.trees, fitted.row_codes, groups=fitted.row_group, std_err=True, num_threads=self.num_threads
        )
        assert errors is not None
        place = fitted.row_of_unit
        _report_gaps(tau_hat[place])
        return OobPrediction(tau_hat[place], errors[place], fitted.Y_hat, fitted.W_hat)

    def refit_many(self, Y_res: ArrayLike, W_res: ArrayLike, *, W_raw: ArrayLike) -> FloatArray:
        """Out-of-bag tau_hat of the forests of other outcomes and treatments on the same X, groups and weights.

        For re-randomisation and bootstraps: bins, bags, halves and seeds are those of `fit`, with the options of now.
        Column b is, bit for bit, ``oob().tau_hat`` after a fit in which Y - Y_hat, W - W_hat and W are ``Y_res[:, b]``,
        ``W_res[:, b]`` and ``W_raw[:, b]``. No tree is kept.

        Parameters
        ----------
        Y_res, W_res : (n, B), or (n,) for all refits
            Centred outcomes and centred treatments, any real numbers: sign flips of W - W_hat are no treatment.
        W_raw : (n, B), or (n,) for all refits
            0 or 1: the arms that ``min_node_size`` counts.

        Returns
        -------
        (n, B) float64; NaN where no tree, or no variation of ``W_res``, speaks for the unit.

        Raises
        ------
        EstimationError
            Before `fit`, for a forest read from a file, and naming what is wrong with an argument.
        """
        from eo_cate.estimators.forest import estimates, grow, rows

        fitted = self.require_fitted()
        made, weights = fitted.rows, fitted.weights
        if made is None or weights is None:
            raise EstimationError("this CausalForest comes from a file, which keeps no weights of units: `fit` it anew")
        Y, T, arms = check_refits(Y_res, W_res, W_raw, weights)
        p = fitted.row_codes.shape[1]
        found = grow.refit_means(
            fitted.row_codes,
            made,
            lambda b: rows.sum_moments(made, Y[b], T[b], weights, (arms[b], 1 - arms[b])),
            np.zeros(len(Y)),
            self._rules(grow, is_causal=True, feature_weights=check_feature_weights(self.feature_weights, p)),
            num_sums=fitted.trees.means.shape[1],
            num_trees=self.num_trees,
            seed=self.seed,
            num_threads=self.num_threads,
        )
        tau_hat = estimates.solve_effect(found.reshape(-1, found.shape[2])).reshape(found.shape[:2])
        return tau_hat[fitted.row_of_unit]

    def variable_importance(self, *, by: Literal["feature", "block"] = "feature") -> dict[str, float]:
        """Share of early splits by feature, or summed by block (a scale, tabular): grf's definition, of sum 1.

        It says what the trees used, not what the effect depends on: correlated features share it.
        """
        from eo_cate.estimators.forest.importance import split_importance

        fitted = self.require_fitted()
        shares = split_importance(fitted.trees, len(fitted.bins.names))
        labels = fitted.bins.names if by == "feature" else fitted.blocks
        found = dict.fromkeys(labels, 0.0)
        for label, share in zip(labels, shares.tolist(), strict=True):
            found[label] += share
        return found

    def save(self, path: Path) -> None:
        """Write the fitted forest to ``path`` (.npz: arrays, and options as JSON; no pickle)."""
        from eo_cate.estimators.forest.storage import save_forest

        save_forest(self, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a forest that `save` wrote; it predicts bit for bit the same.

        Raises
        ------
        EstimationError
            When the file is not one.
        """
        from eo_cate.estimators.forest.storage import load_forest

        return load_forest(cls, path)

    def set_fitted(self, fitted: Fitted) -> None:
        """Take the state of a fit."""
        self._fitted = fitted
        self.n_features_in_ = len(fitted.bins.names)

    def require_fitted(self) -> Fitted:
        """The state of `fit`, or an EstimationError."""
        if self._fitted is None:
            from eo_cate.estimators.forest.sklearn_protocol import UnfittedError

            raise UnfittedError("this CausalForest is not fitted: call `fit` first")
        return self._fitted

    def _centre_treatment(
        self, X: FeatureBlocks, units: Units, propensity: ArrayLike | None, W_hat: ArrayLike | None
    ) -> FloatArray:
        if propensity is not None and W_hat is not None:
            raise EstimationError("both `propensity` and `W_hat` are given: a known propensity is not to be estimated")
        n = len(units.W)
        try:
            if propensity is not None:
                return checks.propensity_vector(propensity, n)
            if W_hat is not None:
                return checks.vector("W_hat", np.full(n, W_hat) if np.ndim(W_hat) == 0 else W_hat, length=n)
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        return self._regress(X, units.W, units)

    def _centre_outcome(
        self, X: FeatureBlocks, units: Units, Y_hat: ArrayLike | Literal["forest"] | None
    ) -> FloatArray:
        n = len(units.Y)
        if isinstance(Y_hat, str):
            if Y_hat != "forest":
                raise EstimationError(f"`Y_hat` is {Y_hat!r}: give values, 'forest' or None")
            return self._regress(X, units.Y, units)
        centre = np.average(units.Y, weights=units.weights) if Y_hat is None else Y_hat
        try:
            return checks.vector("Y_hat", np.full(n, centre) if np.ndim(centre) == 0 else centre, length=n)
        except EvaluationError as error:
            raise EstimationError(str(error)) from error

    def _regress(self, X: FeatureBlocks, values: FloatArray, units: Units) -> FloatArray:
        from eo_cate.estimators.forest.regression_forest import RegressionForest

        forest = RegressionForest(seed=self.seed, num_threads=self.num_threads)
        return forest.fit(X, values, sample_weights=units.weights, groups=units.codes).oob()


def _check_groups(rows: Rows) -> None:
    if len(rows.active) < MIN_GROUPS:
        raise EstimationError(
            f"`groups` holds {len(rows.active)} groups with positive weight, at least {MIN_GROUPS} are needed: "
            "a forest cannot be grown on so few clusters"
        )


def _report_gaps(tau_hat: FloatArray) -> None:
    gaps = int(np.isnan(tau_hat).sum())
    if gaps:
        logger.warning(
            "%d of %d units have no tau_hat: no tree, or no variation of W, speaks for them", gaps, len(tau_hat)
        )
