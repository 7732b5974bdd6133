"""The forests (METHODS.md, section 8), on an engine of their own."""

from eo_cate.estimators.forest.causal_forest import CausalForest, OobPrediction
from eo_cate.estimators.forest.regression_forest import RegressionForest

__all__ = ["CausalForest", "OobPrediction", "RegressionForest"]
