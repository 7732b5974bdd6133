"""What goes with the ranking? Means of observables by quantile of out-of-group tau_hat (METHODS.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from eo_cate.evaluation.gates import clan, quantile_of, rank_shares
from eo_cate.stats.checks import vector, weights_vector
from eo_cate.types import FloatArray, IntArray


@dataclass(frozen=True)
class ObservableMeans:
    """Observables by quantile of tau_hat, the lowest first; one entry per observable.

    Parameters
    ----------
    names : tuple of str, length k
    means : (k, K) float64
        Weighted means over the units that have the observable; NaN where none has.
    difference, std_err : (k,) float64
        Highest - lowest, as in `clan`.
    interval : (k, 2) float64
        Of the difference, pointwise: t with Welch's degrees of freedom from the groups of both.
    p : (k,) float64
        Two-sided, not corrected for the number of observables.
    std_dev : (k,) float64
        Weighted, over all units that have the observable: a unit for comparing differences.
    missing : (k,) int64
        Units without it.
    """

    names: tuple[str, ...]
    means: FloatArray
    difference: FloatArray
    std_err: FloatArray
    interval: FloatArray
    p: FloatArray
    std_dev: FloatArray
    missing: IntArray


def compare_observables(
    observables: pd.DataFrame,
    tau_hat: ArrayLike,
    *,
    num_groups: int = 4,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    vcov: str = "HC2",
    level: float = 0.95,
) -> ObservableMeans:
    """Classification analysis (`clan`) over K quantile groups, with the means of all of them.

    Parameters
    ----------
    observables : (n, k) DataFrame
        NaN = missing.
    tau_hat : (n,)
        Effects learnt from other groups: the caller's responsibility.
    num_groups : int
        K, at least 2.
    sample_weights, groups, folds, vcov
        As in `gates`.
    level : float
        Of the intervals.

    Returns
    -------
    ObservableMeans

    Raises
    ------
    EvaluationError
        As `clan`.
    """
    compared = clan(
        observables, tau_hat,
        share=1 / num_groups, sample_weights=sample_weights, groups=groups, folds=folds, vcov=vcov,
    )  # fmt: skip
    weights = weights_vector(sample_weights, len(observables))
    values = observables.to_numpy(np.float64)
    quantile = quantile_of(rank_shares(vector("tau_hat", tau_hat), weights, folds), num_groups)
    half = stats.t.isf((1 - level) / 2, compared.df) * compared.std_err
    return ObservableMeans(
        names=compared.names,
        means=np.stack([_column_means(values, weights * (quantile == k)) for k in range(num_groups)], axis=1),
        difference=compared.difference,
        std_err=compared.std_err,
        interval=np.column_stack([compared.difference - half, compared.difference + half]),
        p=compared.p,
        std_dev=np.sqrt(_column_means((values - _column_means(values, weights)) ** 2, weights)),
        missing=np.isnan(values).sum(axis=0),
    )


def _column_means(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of each column over its finite values; NaN without any weight."""
    known = np.isfinite(values)
    total = weights @ known
    return np.asarray(weights @ np.where(known, values, 0.0) / np.where(total > 0, total, np.nan))
