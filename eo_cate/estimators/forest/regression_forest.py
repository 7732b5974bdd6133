"""An honest regression forest by group: nuisances, and the forest that a refit test grows again for every draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.estimators.features import check_features, check_same_features
from eo_cate.estimators.forest.options import MIN_GROUPS, ForestOptions, check_feature_weights
from eo_cate.stats import checks
from eo_cate.types import FeatureBlocks, FloatArray, IntArray, as_blocks

if TYPE_CHECKING:
    from eo_cate.estimators.forest.grow import Trees
    from eo_cate.estimators.forest.rows import FeatureBins


class RegressionForest(RegressorMixin, ForestOptions):  # type: ignore[misc, unused-ignore]
    """Honest regression forest (Athey, Tibshirani, Wager 2019), with bags and honesty by group.

    Parameters
    ----------
    num_trees : int
        An even number, two trees share a bag. 200 are enough for a refit test: the draws share bags and seeds.
    min_node_size : int
        Least number of units (of rows, in `leave_out_predictions`) of the split half in each child.
    alpha : float
        Least share of the node's units (rows) in each child.
    sample_fraction, mtry, honesty_fraction, feature_weights, seed, num_threads
        As in `CausalForest`.
    """

    _fitted: tuple[FeatureBins, Trees, NDArray[np.uint8], IntArray, IntArray] | None = None

    def __init__(
        self,
        num_trees: int = 500,
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
        *,
        sample_weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Grow on n units.

        Parameters
        ----------
        X : FeatureBlocks or (n, p) array, NaN = missing
        Y : (n,)
        sample_weights : (n,), optional
        groups : (n,) int or str, optional
            The indivisible blocks of every draw; None: each unit is its own.

        Raises
        ------
        EstimationError
            Naming the argument, what was found and what to change.
        """
        from eo_cate.estimators.forest import grow, rows

        blocks, outcome, weights, codes = self._check(X, Y, sample_weights, groups, "groups")
        bins = rows.fit_feature_bins(blocks)
        made = rows.rows_of(blocks, codes, weights)
        row_codes = bins.encode(blocks, made.first)
        ones = np.ones(len(outcome))
        mean = np.average(outcome, weights=weights)
        moments = rows.sum_moments(made, outcome - mean, 0 * ones, weights, (ones, ones))
        trees = grow.grow_forest(
            row_codes,
            made,
            moments,
            self._rules(
                grow, is_causal=False, feature_weights=check_feature_weights(self.feature_weights, blocks.shape[1])
            ),
            num_trees=self.num_trees,
            seed=self.seed,
            num_threads=self.num_threads,
        )
        trees.means[:, 1] += mean * trees.means[:, 0]
        self._fitted = bins, trees, row_codes, made.group, made.of_unit
        self.n_features_in_ = blocks.shape[1]
        return self

    def predict(self, X: FeatureBlocks | NDArray[Any]) -> FloatArray:
        """E[Y | x] of units of other groups, shape (n,)."""
        from eo_cate.estimators.forest import predict, rows

        if self._fitted is None:
            raise EstimationError("this RegressionForest is not fitted: call `fit` first")
        bins, trees = self._fitted[:2]
        blocks = as_blocks(X)
        check_features(blocks)
        check_same_features(blocks, bins.names, by_name=isinstance(X, FeatureBlocks))
        first, place = rows.distinct_rows(blocks)
        return predict.estimate_means(trees, bins.encode(blocks, first), num_threads=self.num_threads)[place]

    def oob(self) -> FloatArray:
        """Out-of-bag predictions of the training units, (n,): from the bags that leave the unit's group out."""
        from eo_cate.estimators.forest import predict

        if self._fitted is None:
            raise EstimationError("this RegressionForest is not fitted: call `fit` first")
        _, trees, row_codes, group, of_unit = self._fitted
        return predict.estimate_means(trees, row_codes, groups=group, num_threads=self.num_threads)[of_unit]

    def leave_out_predictions(
        self,
        X: FeatureBlocks | NDArray[Any],
        u: FloatArray,
        *,
        flip_unit: ArrayLike,
        weights: ArrayLike | None = None,
    ) -> FloatArray:
        """Out-of-bag predictions of pseudo-outcomes: what sign-flip draws refit (METHODS.md, section 4).

        Bags and honest halves draw flip units, so a row's prediction never saw its flip unit; every column of ``u``
        gets the same bins, bags and seeds.

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
        float64 of the shape of u; NaN where no bag leaves the flip unit out.

        Raises
        ------
        EstimationError
            Naming the argument, what was found and what to change.
        """
        from eo_cate.estimators.forest import grow, rows

        values = np.asarray(u, dtype=np.float64)
        columns = np.ascontiguousarray(values[:, None] if values.ndim == 1 else values)
        blocks, _, omega, codes = self._check(X, columns.sum(axis=1), weights, flip_unit, "flip_unit")
        every = np.arange(len(blocks), dtype=np.int64)
        made = rows.make_rows(every, every, codes, omega)
        ones = np.ones(len(blocks))
        moments = rows.sum_moments(made, np.sqrt((columns**2).mean(axis=1)), 0 * ones, omega, (ones, ones))
        found = grow.leave_out(
            rows.fit_feature_bins(blocks).encode(blocks, made.first),
            made,
            moments,
            self._rules(
                grow, is_causal=False, feature_weights=check_feature_weights(self.feature_weights, blocks.shape[1])
            ),
            columns[made.first],
            num_trees=self.num_trees,
            seed=self.seed,
            num_threads=self.num_threads,
        )
        return found[made.of_unit].reshape(values.shape)

    def _check(
        self,
        X: FeatureBlocks | NDArray[Any],
        Y: ArrayLike,
        weights: ArrayLike | None,
        groups: ArrayLike | None,
        name: str,
    ) -> tuple[FeatureBlocks, FloatArray, FloatArray, IntArray]:
        self._check_options()
        blocks = as_blocks(X)
        check_features(blocks)
        try:
            outcome = checks.vector("Y" if name == "groups" else "u", Y, length=len(blocks))
            omega = checks.weights_vector(weights, len(blocks))
            codes, _ = checks.group_codes(groups, len(blocks), name=name)
        except EvaluationError as error:
            raise EstimationError(str(error)) from error
        active = len(np.unique(codes[omega > 0]))
        if active < MIN_GROUPS:
            raise EstimationError(
                f"`{name}` holds {active} groups with positive weight, at least {MIN_GROUPS} are needed: "
                "a forest cannot be grown on so few clusters"
            )
        return blocks, outcome, omega / omega.mean(), codes
