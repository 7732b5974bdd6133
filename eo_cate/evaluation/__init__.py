"""Is tau_hat real? Scores, RATE, sequential folds."""

from eo_cate.evaluation.ate import AteResult, average_treatment_effect
from eo_cate.evaluation.calibration import RegressionResult, best_linear_projection, calibration_test
from eo_cate.evaluation.configurations import (
    OutcomeModel,
    TrialVectors,
    fit_outcome_model,
    pool_configurations,
    rank_folds,
    score_folds,
)
from eo_cate.evaluation.contrasts import PairedContrast, RateGain, pool_contrast, pool_gain, pool_over_mean, rate_gain
from eo_cate.evaluation.fold_steps import FoldRank, FoldScores, FoldTask, plan_folds, rank_fold, score_fold
from eo_cate.evaluation.gates import ClanResult, GatesResult, adjust_p, clan, gates, rank_shares
from eo_cate.evaluation.isotonic import CalibratedEffects, calibrate_isotonic
from eo_cate.evaluation.no_refit import no_refit_test
from eo_cate.evaluation.observables import ObservableMeans, compare_observables
from eo_cate.evaluation.policy import PolicyValue, policy_value
from eo_cate.evaluation.pooling import SequentialRate, pool_folds
from eo_cate.evaluation.rate import Priorities, RateResult, null_std_err, rate, rate_over_mean
from eo_cate.evaluation.refit import RefitEstimator, RefitTest
from eo_cate.evaluation.refit_tests import conditional_test, refit_test
from eo_cate.evaluation.risks import RiskResult, dr_risk, r_risk
from eo_cate.evaluation.scores import doubly_robust_scores
from eo_cate.evaluation.sequential import sequential_rate

__all__ = [
    "AteResult",
    "CalibratedEffects",
    "ClanResult",
    "FoldRank",
    "FoldScores",
    "FoldTask",
    "GatesResult",
    "ObservableMeans",
    "OutcomeModel",
    "PairedContrast",
    "PolicyValue",
    "Priorities",
    "RateGain",
    "RateResult",
    "RefitEstimator",
    "RefitTest",
    "RegressionResult",
    "RiskResult",
    "SequentialRate",
    "TrialVectors",
    "adjust_p",
    "average_treatment_effect",
    "best_linear_projection",
    "calibrate_isotonic",
    "calibration_test",
    "clan",
    "compare_observables",
    "conditional_test",
    "doubly_robust_scores",
    "dr_risk",
    "fit_outcome_model",
    "gates",
    "no_refit_test",
    "null_std_err",
    "plan_folds",
    "policy_value",
    "pool_configurations",
    "pool_contrast",
    "pool_folds",
    "pool_gain",
    "pool_over_mean",
    "r_risk",
    "rank_fold",
    "rank_folds",
    "rank_shares",
    "rate",
    "rate_gain",
    "rate_over_mean",
    "refit_test",
    "score_fold",
    "score_folds",
    "sequential_rate",
]
