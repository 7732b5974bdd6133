"""Options that both forests share, checked before long work, and what scikit-learn asks of an estimator."""

from __future__ import annotations

import inspect
from typing import Any, Self

import numpy as np

from eo_cate.errors import EstimationError
from eo_cate.stats.params import Parameters
from eo_cate.types import FloatArray

MIN_GROUPS = 10


class ForestOptions(Parameters):
    """The options of a forest, checked; a subclass keeps each argument under its name, as scikit-learn wants it."""

    num_trees: int
    sample_fraction: float
    mtry: int | None
    min_node_size: int
    honesty_fraction: float
    alpha: float
    feature_weights: Any
    seed: int
    num_threads: int
    n_features_in_: int
    """Number of columns of the last `fit`."""
    _fitted: Any = None

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None

    def __sklearn_tags__(self) -> Any:
        from eo_cate.estimators.forest.sklearn_protocol import make_tags

        return make_tags(None)

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        given = {name: repr(value) for name, value in self.get_params().items()}
        changed = [f"{name}={value}" for name, value in given.items() if value != repr(defaults[name].default)]
        return f"{type(self).__name__}({', '.join(changed)})"

    def get_metadata_routing(self) -> Any:
        """What scikit-learn's searches should pass to `fit`: a MetadataRequest."""
        from eo_cate.estimators.forest.sklearn_protocol import request_metadata

        return request_metadata(self, {})

    def set_fit_request(self, **requests: bool | str | None) -> Self:
        """Ask scikit-learn's searches to pass arguments of `fit` (True, or the name under which they are given).

        Raises
        ------
        EstimationError
            For a name that `fit` does not take.
        """
        from eo_cate.estimators.forest.sklearn_protocol import request_metadata

        self._metadata_request = request_metadata(self, requests)
        return self

    def set_params(self, **params: Any) -> Self:
        """Change options; `fit` uses them.

        Raises
        ------
        EstimationError
            For an unknown name or a bad value.
        """
        super().set_params(**params)
        self._check_options()
        return self

    def _check_options(self) -> None:
        if self.num_trees < 2 or self.num_trees % 2:
            raise EstimationError(f"`num_trees` is {self.num_trees}: give an even number, two trees share a bag")
        for name in ("min_node_size", "mtry", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EstimationError(f"`{name}` is {value}: give 1 or more")
        if not 0 <= self.seed < 2**64:
            raise EstimationError(f"`seed` is {self.seed}: give an integer from 0 to 2**64 - 1")
        for name, upper in (("sample_fraction", 1.0), ("honesty_fraction", 1.0), ("alpha", 0.5)):
            if not 0 < getattr(self, name) < upper:
                raise EstimationError(f"`{name}` is {getattr(self, name)}: give a number between 0 and {upper:g}")

    def _rules(self, grow: Any, *, is_causal: bool, feature_weights: FloatArray | None) -> Any:
        return grow.Rules(
            is_causal=is_causal,
            min_count=float(self.min_node_size),
            alpha=self.alpha,
            sample_fraction=self.sample_fraction,
            honesty_fraction=self.honesty_fraction,
            mtry=self.mtry,
            feature_weights=feature_weights,
        )


def check_feature_weights(feature_weights: Any, p: int) -> FloatArray | None:
    """Weights (p,) of the columns' chances to be drawn, or None.

    Raises
    ------
    EstimationError
        Naming shape or count.
    """
    if feature_weights is None:
        return None
    weights = np.asarray(feature_weights, dtype=np.float64)
    if weights.shape != (p,):
        raise EstimationError(f"`feature_weights` has shape {weights.shape}: give one weight per column, ({p},)")
    bad = int((~np.isfinite(weights) | (weights < 0)).sum())
    if bad or not weights.sum() > 0:
        raise EstimationError(
            f"`feature_weights` has {bad} negative or infinite values and sum {weights.sum():g}: give numbers of 0 or "
            "more, some above 0"
        )
    return weights
