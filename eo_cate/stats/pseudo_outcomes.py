"""From units to one pseudo-outcome per site: what a kernel method on sites is fitted on (METHODS.md, section 8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, propensity_vector, treatment_vector, vector, weights_vector
from eo_cate.stats.site_rows import SiteRows, find_rows
from eo_cate.types import FeatureBlocks, FloatArray, IntArray


@dataclass(frozen=True)
class SiteProblem:
    """Pseudo-outcomes of the S sites of n units.

    Parameters
    ----------
    rows : SiteRows
    u : (S,) float64
        Weighted site means of (W - e)(Y - (W - e) ATE_hat) / (e (1 - e)).
    weights : (S,) float64
        Total weight of each site's units, of mean 1 per unit.
    groups : (S,) int64
        Group of each site; every site its own when there are no groups.
    ATE_hat : float
        Solves sum omega (W - e)(Y - (W - e) ATE_hat) / (e (1 - e)) = 0 over the units.
    """

    rows: SiteRows
    u: FloatArray
    weights: FloatArray
    groups: IntArray
    ATE_hat: float


def pose_sites(
    X: FeatureBlocks,
    Y: ArrayLike,
    W: ArrayLike,
    *,
    propensity: ArrayLike,
    sample_weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> SiteProblem:
    """Pose the problem of n units by site; Y is the outcome less m_hat.

    Raises
    ------
    EvaluationError
        On bad vectors, one arm, or a site that straddles groups.
    """
    n = len(X)
    y, w, e = vector("Y", Y, length=n), treatment_vector(W, n), propensity_vector(propensity, n)
    omega = weights_vector(sample_weights, n)
    codes = None if groups is None else group_codes(groups, n)[0]
    if not 0 < (omega * w).sum() < omega.sum():
        raise EvaluationError(f"all {n} units are in one arm: an effect needs treated and control units")
    h = (w - e) / (e * (1 - e))
    ATE_hat = float(np.sum(omega * h * y) / np.sum(omega * h * (w - e)))
    rows = find_rows(X, codes)
    return SiteProblem(
        rows=rows,
        u=rows.mean(h * (y - (w - e) * ATE_hat), omega),
        weights=rows.sum(omega / omega.mean()),
        groups=np.arange(len(rows.first), dtype=np.int64) if codes is None else codes[rows.first],
        ATE_hat=ATE_hat,
    )
