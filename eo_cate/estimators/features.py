"""Checks of the features that every estimator makes."""

from __future__ import annotations

import numpy as np

from eo_cate.errors import EstimationError
from eo_cate.types import FeatureBlocks


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
