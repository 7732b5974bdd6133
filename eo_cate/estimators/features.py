"""Checks of the features that every estimator makes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from eo_cate.errors import EstimationError
from eo_cate.types import FeatureBlocks, as_blocks

_BLOCK = 1024


def to_blocks(X: Any, site_index: ArrayLike | None = None) -> FeatureBlocks:
    """FeatureBlocks as they are; a matrix (n, p), or of unique sites with ``site_index`` (n,), wrapped; both checked.

    Raises
    ------
    EstimationError
        For sparse or complex matrices, vectors, matrices without columns and infinite values.
    """
    if isinstance(X, FeatureBlocks):
        if site_index is not None:
            raise EstimationError("`X` holds its own site_index: give `site_index` only with a matrix of unique sites")
        check_features(X)
        return X
    if issparse(X):
        raise EstimationError("`X` is sparse, which is not supported: give X.toarray()")
    matrix = np.asarray(X)
    if np.iscomplexobj(matrix):
        raise EstimationError("`X` is complex. Complex data not supported: give real and imaginary parts as columns")
    if matrix.ndim != 2:
        raise EstimationError(
            f"`X` has {matrix.ndim} dimension(s), 2 are needed. Reshape your data: (n, p), one row per unit"
        )
    blocks = as_blocks(matrix) if site_index is None else _blocks_of_sites(matrix, np.asarray(site_index))
    check_features(blocks)
    return blocks


def _blocks_of_sites(matrix: NDArray[Any], site_index: NDArray[Any]) -> FeatureBlocks:
    """Units by the row of their site.

    Raises
    ------
    EstimationError
        When ``site_index`` is no vector of rows of the matrix.
    """
    if site_index.ndim != 1 or not np.issubdtype(site_index.dtype, np.integer):
        raise EstimationError(f"`site_index` is {site_index.dtype} of shape {site_index.shape}: give (n,) integers")
    if len(site_index) and not 0 <= site_index.min() <= site_index.max() < len(matrix):
        raise EstimationError(f"`site_index` must lie in [0, {len(matrix)}), the rows of `X`")
    return FeatureBlocks.from_array(matrix, site_index=site_index.astype(np.int64))


def check_features(X: FeatureBlocks) -> None:
    """Refuse matrices without columns and infinite values.

    Raises
    ------
    EstimationError
        Naming the count and the columns.
    """
    if not X.names:
        raise EstimationError("`X` has no columns: give at least one feature")
    infinite = np.concatenate([_count_infinite(X.site), _count_infinite(X.unit)])
    if infinite.any():
        columns = [X.names[j] for j in np.flatnonzero(infinite)[:5]]
        raise EstimationError(f"`X` has {infinite.sum()} infinite values (first columns: {columns}): set them to NaN")


def _count_infinite(values: NDArray[Any]) -> NDArray[np.int64]:
    """Infinite values of each column, a block of rows at a time: no second table as large as the features."""
    counts = np.zeros(values.shape[1], dtype=np.int64)
    for first in range(0, len(values), _BLOCK):
        counts += np.isinf(values[first : first + _BLOCK]).sum(axis=0)
    return counts


def check_same_features(X: FeatureBlocks, names: tuple[str, ...], *, by_name: bool) -> None:
    """Refuse other columns than those of `fit`.

    Raises
    ------
    EstimationError
        Naming the columns that differ.
    """
    if len(X.names) != len(names) or (by_name and X.names != names):
        odd = sorted(set(X.names) ^ set(names))[:5] or "the order differs"
        raise EstimationError(
            f"`X` has {len(X.names)} columns that are not the {len(names)} of `fit` ({odd}): give the same features"
        )
