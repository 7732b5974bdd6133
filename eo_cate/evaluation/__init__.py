"""Is tau_hat real? Scores, RATE, sequential folds."""

from eo_cate.evaluation.ate import AteResult, average_treatment_effect
from eo_cate.evaluation.configurations import rank_folds, score_folds
from eo_cate.evaluation.fold_steps import FoldScores, FoldTask, plan_folds, rank_fold, score_fold
from eo_cate.evaluation.pooling import SequentialRate, pool_folds
from eo_cate.evaluation.rate import Priorities, RateResult, null_std_err, rate
from eo_cate.evaluation.scores import doubly_robust_scores
from eo_cate.evaluation.sequential import sequential_rate

__all__ = [
    "AteResult",
    "FoldScores",
    "FoldTask",
    "Priorities",
    "RateResult",
    "SequentialRate",
    "average_treatment_effect",
    "doubly_robust_scores",
    "null_std_err",
    "plan_folds",
    "pool_folds",
    "rank_fold",
    "rank_folds",
    "rate",
    "score_fold",
    "score_folds",
    "sequential_rate",
]
