"""The causal forest (METHODS.md, section 8), on econml's compiled trees."""

from eo_cate.estimators.forest.causal_forest import CausalForest, OobPrediction

__all__ = ["CausalForest", "OobPrediction"]
