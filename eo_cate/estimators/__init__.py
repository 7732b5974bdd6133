"""X to tau_hat: importing this room does not load the forest's engine."""

from eo_cate.estimators.forest import CausalForest, OobPrediction, RegressionForest
from eo_cate.estimators.ridge import RidgeR

__all__ = ["CausalForest", "OobPrediction", "RegressionForest", "RidgeR"]
