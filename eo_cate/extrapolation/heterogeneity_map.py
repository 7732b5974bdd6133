"""The heterogeneity map: tau_hat of the cells, and how it compares with a known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from eo_cate.errors import EvaluationError
from eo_cate.stats.training import has_errors, predict_with_errors
from eo_cate.types import BoolArray, CateEstimator, FeatureBlocks, FloatArray


def predict_cells(estimator: CateEstimator, X: FeatureBlocks) -> dict[str, FloatArray]:
    """tau_hat of a fitted estimator, (n,), and its std_err where ``predict`` has that option.

    A map has no households: ``X`` must be what the estimator was fitted on with image features alone. Which model that
    is, the caller decides.
    """
    if not has_errors(estimator):
        return {"tau_hat": np.asarray(estimator.predict(X))}
    return dict(zip(("tau_hat", "std_err"), predict_with_errors(estimator, X), strict=True))


@dataclass(frozen=True)
class Agreement:
    """Predictions against the truth over n cells.

    ``pearson`` and ``spearman`` are correlations; ``R2`` is 1 - sum (truth - tau_hat)^2 / sum (truth - its mean)^2, so
    a map that only ranks well can have a low or a negative one. NaN where a side is constant.
    """

    n: int
    pearson: float
    spearman: float
    R2: float


@dataclass(frozen=True)
class MapComparison:
    """Agreement over all cells, and over those without a trial site (None when there are fewer than three)."""

    everywhere: Agreement
    unsampled: Agreement | None


def compare_map(tau_hat: FloatArray, truth: FloatArray, *, sampled: BoolArray | None = None) -> MapComparison:
    """Compare tau_hat with the true effect, cells in the same order; cells where either is NaN are left out.

    Parameters
    ----------
    tau_hat, truth : (cell,)
        Estimate and truth in units of the outcome.
    sampled : (cell,) bool, optional
        Cells that hold a trial site; absent: none does.

    Raises
    ------
    EvaluationError
        When lengths differ or fewer than three cells have both values.
    """
    sampled = np.zeros(len(truth), dtype=bool) if sampled is None else sampled
    if not len(tau_hat) == len(truth) == len(sampled):
        raise EvaluationError(f"{len(tau_hat)} estimates, {len(truth)} true effects and {len(sampled)} marks differ")
    both = np.isfinite(tau_hat) & np.isfinite(truth)
    if both.sum() < 3:
        raise EvaluationError(f"only {int(both.sum())} of {len(truth)} cells have an estimate and a true effect")
    free = both & ~sampled
    return MapComparison(
        _agreement(tau_hat[both], truth[both]),
        _agreement(tau_hat[free], truth[free]) if free.sum() >= 3 else None,
    )


def _agreement(tau_hat: FloatArray, truth: FloatArray) -> Agreement:
    total = float(((truth - truth.mean()) ** 2).sum())
    if np.ptp(tau_hat) == 0 or total == 0:
        pearson = spearman = float("nan")
    else:
        pearson = float(np.corrcoef(tau_hat, truth)[0, 1])
        spearman = float(spearmanr(tau_hat, truth).statistic)
    R2 = 1 - float(((truth - tau_hat) ** 2).sum()) / total if total else float("nan")
    return Agreement(len(truth), pearson, spearman, R2)
