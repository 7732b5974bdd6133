"""X to tau_hat: importing this room does not load the forest's engine."""

from eo_cate.estimators.adapters import AdaptedLearner, from_econml, from_sklearn_like
from eo_cate.estimators.econml_forest import EconmlForest
from eo_cate.estimators.forest import CausalForest, OobPrediction, RegressionForest
from eo_cate.estimators.ridge import RidgeR
from eo_cate.estimators.tuning import StableForest, grow_until_stable, halves_agreement, negative_r_risk

__all__ = [
    "AdaptedLearner",
    "CausalForest",
    "EconmlForest",
    "OobPrediction",
    "RegressionForest",
    "RidgeR",
    "StableForest",
    "from_econml",
    "from_sklearn_like",
    "grow_until_stable",
    "halves_agreement",
    "negative_r_risk",
]
