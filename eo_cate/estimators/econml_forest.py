"""econml's causal forest under grf's words, for `from_econml`: a check beside the package's own."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np

from eo_cate.errors import EstimationError
from eo_cate.stats.params import Parameters
from eo_cate.types import FloatArray, IntArray

_FOLDS = 3


class EconmlForest(Parameters):
    """``econml.dml.CausalForestDML`` with grf's options, splitting rule and number of features per node.

    Y and W are centred at their means in the other folds, which `fit` draws by ``groups`` when they are given. Its bags
    and honest halves draw units, not groups; known propensities and missing values it does not take. It runs on one
    thread, because on more the last bits of its predictions vary from call to call.

    Parameters
    ----------
    num_trees, sample_fraction, mtry, seed
        As in `CausalForest`; ``mtry`` is exact, not the mean of a draw.
    min_node_size : int
        Twice this many units are the least in a child: econml counts units, not arms.
    alpha : float
        The smaller child has this share of the node's units at least.
    """

    def __init__(
        self,
        num_trees: int = 2000,
        *,
        sample_fraction: float = 0.5,
        mtry: int | None = None,
        min_node_size: int = 5,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.num_trees = num_trees
        self.sample_fraction = sample_fraction
        self.mtry = mtry
        self.min_node_size = min_node_size
        self.alpha = alpha
        self.seed = seed
        self._fitted: Any = None

    def fit(
        self,
        Y: FloatArray,
        T: FloatArray,
        *,
        X: FloatArray,
        sample_weight: FloatArray | None = None,
        groups: IntArray | None = None,
    ) -> Self:
        """Fit on n units; returns self."""
        from sklearn.dummy import DummyClassifier, DummyRegressor

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from econml.dml import CausalForestDML

            from eo_cate.estimators.forest.grow import default_mtry

            p = X.shape[1]
            forest = CausalForestDML(
                model_y=DummyRegressor(),
                model_t=DummyClassifier(),
                discrete_treatment=True,
                cv=_FOLDS,
                criterion="het",
                n_estimators=self.num_trees,
                subforest_size=2,
                max_samples=self.sample_fraction,
                max_features=default_mtry(p) if self.mtry is None else min(self.mtry, p),
                min_samples_leaf=2 * self.min_node_size,
                min_samples_split=4 * self.min_node_size,
                min_balancedness_tol=0.5 - self.alpha,
                inference=False,
                n_jobs=1,
                random_state=self.seed,
            )
            self._fitted = forest.fit(Y, T, X=X, sample_weight=sample_weight, groups=groups)
        return self

    def effect(self, X: FloatArray) -> FloatArray:
        """tau_hat, shape (n,).

        Raises
        ------
        EstimationError
            Before `fit`.
        """
        if self._fitted is None:
            raise EstimationError("this EconmlForest is not fitted: call `fit` first")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(self._fitted.effect(X), dtype=np.float64)
