"""An honest regression forest by group: nuisances, and the forest that a refit test grows again for every draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.estimators.features import check_same_features, to_blocks
from eo_cate.estimators.forest.arguments import check_columns
from eo_cate.estimators.forest.options import MIN_GROUPS, ForestOptions, check_feature_weights
from eo_cate.stats import checks
from eo_cate.types import FeatureBlocks, FloatArray

if TYPE_CHECKING:
    from eo_cate.estimators.forest.grow import Trees
    from eo_cate.estimators.forest.rows import FeatureBins, Rows


@dataclass(frozen=True)
class _Posed:
    """Features, groups and weights of the units: what refits share."""

    bins: FeatureBins
    rows: Rows
    codes: NDArray[np.uint8]
    weights: FloatArray

    @property
    def counts(self) -> tuple[FloatArray, FloatArray]:
        """Both counts that a child must keep are of units."""
        ones = np.ones(len(self.weights))
        return ones, ones


class RegressionForest(ForestOptions):
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

    _fitted: tuple[_Posed, Trees] | None = None

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

        posed = self._pose(X, sample_weights, groups, "groups")
        outcome = _vector("Y", Y, len(posed.weights))
        mean = np.average(outcome, weights=posed.weights)
        moments = rows.sum_moments(posed.rows, outcome - mean, 0 * outcome, posed.weights, posed.counts)
        trees = grow.grow_forest(
            posed.codes,
            posed.rows,
            moments,
            self._regression_rules(posed),
            num_trees=self.num_trees,
            seed=self.seed,
            num_threads=self.num_threads,
        )
        trees.means[:, 1] += mean * trees.means[:, 0]
        self._fitted = posed, trees
        self.n_features_in_ = posed.codes.shape[1]
        return self

    def __sklearn_tags__(self) -> Any:
        from eo_cate.estimators.forest.sklearn_protocol import make_tags

        return make_tags("regressor")

    def score(self, X: FeatureBlocks | NDArray[Any], y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """R2 of `predict`, as scikit-learn's regressors have it."""
        from sklearn.metrics import r2_score

        return float(r2_score(y, self.predict(X), sample_weight=sample_weight))

    def predict(self, X: FeatureBlocks | NDArray[Any]) -> FloatArray:
        """E[Y | x] of units of other groups, shape (n,)."""
        from eo_cate.estimators.forest import predict, rows

        posed, trees = self._require_fitted()
        blocks = to_blocks(X)
        check_same_features(blocks, posed.bins.names, by_name=isinstance(X, FeatureBlocks))
        first, place = rows.distinct_rows(blocks)
        return predict.estimate_means(trees, posed.bins.encode(blocks, first), num_threads=self.num_threads)[place]

    def oob(self) -> FloatArray:
        """Out-of-bag predictions of the training units, (n,): from the bags that leave the unit's group out."""
        from eo_cate.estimators.forest import predict

        posed, trees = self._require_fitted()
        found = predict.estimate_means(trees, posed.codes, groups=posed.rows.group, num_threads=self.num_threads)
        return found[posed.rows.of_unit]

    def refit_many(self, u: ArrayLike) -> FloatArray:
        """Out-of-bag predictions of the forests of other outcomes on the same X, groups, weights, bags and seeds.

        Column b is, bit for bit, ``oob()`` after ``fit`` with Y = u[:, b]. No tree is kept.

        Parameters
        ----------
        u : (n,) or (n, B)

        Returns
        -------
        float64 of the shape of u; NaN where no bag leaves the unit's group out.

        Raises
        ------
        EstimationError
            Before `fit`, and naming what is wrong with ``u``.
        """
        posed, _ = self._require_fitted()
        columns = check_columns("u", u, len(posed.weights))
        centres = np.array([np.average(own, weights=posed.weights) for own in columns])
        return self._refit(posed, columns, centres).reshape(np.shape(u))

    def leave_out_predictions(
        self,
        X: FeatureBlocks | NDArray[Any],
        u: FloatArray,
        *,
        flip_unit: ArrayLike,
        weights: ArrayLike | None = None,
    ) -> FloatArray:
        """Out-of-bag predictions of pseudo-outcomes: what sign-flip draws refit (METHODS.md, section 4).

        Bags and honest halves draw flip units and ``u`` is not centred, so a row's prediction never saw its flip unit;
        every column of ``u`` gets the same bins, bags and seeds.

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
        posed = self._pose(X, weights, flip_unit, "flip_unit")
        columns = check_columns("u", u, len(posed.weights))
        return self._refit(posed, columns, np.zeros(len(columns))).reshape(np.shape(u))

    def _refit(self, posed: _Posed, columns: FloatArray, centres: FloatArray) -> FloatArray:
        """Out-of-bag predictions (n, B) of B columns (B, n), each centred at its number: the one path of refits."""
        from eo_cate.estimators.forest import grow, rows

        zeros = np.zeros(columns.shape[1])
        shared = rows.sum_moments(posed.rows, zeros, zeros, posed.weights, posed.counts)

        def moments_of(b: int) -> FloatArray:
            own = shared.copy()
            own[:, 1] = posed.rows.sum(posed.weights * (columns[b] - centres[b]))
            return own

        found = grow.refit_means(
            posed.codes,
            posed.rows,
            moments_of,
            centres,
            self._regression_rules(posed),
            num_sums=2,
            num_trees=self.num_trees,
            seed=self.seed,
            num_threads=self.num_threads,
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            predictions: FloatArray = found[:, :, 1] / found[:, :, 0]
        return predictions[posed.rows.of_unit]

    def _regression_rules(self, posed: _Posed) -> Any:
        from eo_cate.estimators.forest import grow

        chances = check_feature_weights(self.feature_weights, posed.codes.shape[1])
        return self._rules(grow, is_causal=False, feature_weights=chances)

    def _require_fitted(self) -> tuple[_Posed, Trees]:
        if self._fitted is None:
            from eo_cate.estimators.forest.sklearn_protocol import UnfittedError

            raise UnfittedError("this RegressionForest is not fitted: call `fit` first")
        return self._fitted

    def _pose(
        self, X: FeatureBlocks | NDArray[Any], weights: ArrayLike | None, groups: ArrayLike | None, name: str
    ) -> _Posed:
        from eo_cate.estimators.forest import rows

        self._check_options()
        blocks = to_blocks(X)
        try:
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
        bins, omega = rows.fit_feature_bins(blocks), omega / omega.mean()
        made = rows.rows_of(blocks, codes, omega)
        return _Posed(bins, made, bins.encode(blocks, made.first), omega)


def _vector(name: str, values: ArrayLike, n: int) -> FloatArray:
    try:
        return checks.vector(name, values, length=n)
    except EvaluationError as error:
        raise EstimationError(str(error)) from error
