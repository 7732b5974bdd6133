"""From feature blocks to the float64 matrix that trees split on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_cate.errors import EstimationError
from eo_cate.types import FeatureBlocks, FloatArray, IntArray


@dataclass(frozen=True)
class Scaling:
    """Training means and standard deviations, and the columns that get an indicator of being missing.

    Parameters
    ----------
    mean, scale : (p,) float64
        Of the training units' observed values; ``scale`` is 1 where a column is constant.
    indicators : (q,) int
        Columns missing for some training unit, one per pattern of missing units.
    names : tuple of str, length p
    """

    mean: FloatArray
    scale: FloatArray
    indicators: IntArray
    names: tuple[str, ...]

    @property
    def num_columns(self) -> int:
        """Columns of the matrix that trees see, p + q."""
        return len(self.mean) + len(self.indicators)


def fit_scaling(X: FeatureBlocks) -> Scaling:
    """Learn `Scaling` from the training units.

    Trees do not need scaled features, but econml treats values within 1e-7 of each other as ties: without scaling,
    reflectances or small embeddings would be constants.
    """
    matrix = X.gather().astype(np.float64)
    missing = np.isnan(matrix)
    count = np.maximum((~missing).sum(axis=0), 1)
    mean = np.where(missing, 0.0, matrix).sum(axis=0) / count
    spread = np.sqrt(np.where(missing, 0.0, (matrix - mean) ** 2).sum(axis=0) / count)
    scale = np.where(spread > 1e-12 * np.abs(mean), spread, 1.0)
    gaps = np.flatnonzero(missing.any(axis=0))
    _, first = np.unique(missing[:, gaps], axis=1, return_index=True) if len(gaps) else (None, gaps)
    return Scaling(mean=mean, scale=scale, indicators=np.sort(gaps[first]), names=X.names)


def tree_matrix(X: FeatureBlocks, scaling: Scaling) -> FloatArray:
    """Standardised features, shape (n, p + q): missing values at the training mean, then their indicators."""
    matrix = X.gather().astype(np.float64)
    missing = np.isnan(matrix)
    matrix -= scaling.mean
    matrix /= scaling.scale
    matrix[missing] = 0.0
    if not len(scaling.indicators):
        return matrix
    return np.hstack([matrix, missing[:, scaling.indicators].astype(np.float64)])


def distinct_rows(X: FeatureBlocks, codes: IntArray | None = None) -> tuple[IntArray, IntArray]:
    """Units that stand for all units of equal features (and equal code), and the place of each unit among them.

    Only features shared by a site repeat; with unit features every unit stands for itself.
    """
    if X.unit.shape[1]:
        every = np.arange(len(X), dtype=np.int64)
        return every, every
    key = X.site_index if codes is None else X.site_index * (int(codes.max(initial=0)) + 1) + codes
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first.astype(np.int64), inverse.astype(np.int64)


def check_features(X: FeatureBlocks) -> None:
    """Refuse matrices without columns and infinite values.

    Raises
    ------
    EstimationError
        Naming the count and the columns.
    """
    if not X.names:
        raise EstimationError("`X` has no columns: give at least one feature")
    infinite = np.concatenate([np.isinf(X.site).sum(axis=0), np.isinf(X.unit).sum(axis=0)])
    if infinite.any():
        columns = [X.names[j] for j in np.flatnonzero(infinite)[:5]]
        raise EstimationError(f"`X` has {infinite.sum()} infinite values (first columns: {columns}): set them to NaN")
