"""Covariates that give the treatment or the outcome away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eo_cate.types import BoolArray, FloatArray

_TOLERANCE = 1e-6
"""Relative; columns that were stored in single precision still count as copies."""
_LEAST_ROWS = 3
"""A product is only called one when this many values of the covariate are not zero: rarer ones may be chance."""


def is_linear_copy(x: FloatArray, y: FloatArray) -> bool:
    """Whether x = a + b y (b not 0) in every row where both are finite, and neither is constant there.

    Rows : both of shape (n,). At least half of the finite rows of x must be comparable.
    """
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < max(_LEAST_ROWS, 0.5 * np.isfinite(x).sum()):
        return False
    x, y = x[both], y[both]
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return False
    low, high = np.argmin(y), np.argmax(y)
    slope = (x[high] - x[low]) / (y[high] - y[low])
    return bool(np.all(np.abs(x - x[low] - slope * (y - y[low])) <= _TOLERANCE * np.ptp(x)))


def find_factor(x: FloatArray, W: FloatArray, others: Mapping[str, FloatArray]) -> tuple[str, str] | None:
    """The (arm, column) such that x is exactly that arm's indicator times the column, or None.

    ``W`` is 0/1 without missing values; the arm is "W" or "1 - W". Where x or the other column is missing, rows are
    not compared; at least half of the finite rows of x must be. A column that vanishes in the other arm by itself is no
    product: the arm's indicator must have done something.
    """
    for arm, inside in (("W", W == 1), ("1 - W", W == 0)):
        finite = np.isfinite(x)
        if np.any(x[finite & ~inside] != 0) or np.count_nonzero(x[finite & inside]) < _LEAST_ROWS:
            continue
        for name, other in others.items():
            if _is_masked(x, other, inside):
                return arm, name
    return None


def _is_masked(x: FloatArray, other: FloatArray, inside: BoolArray) -> bool:
    both = np.isfinite(x) & np.isfinite(other)
    kept, masked = both & inside, both & ~inside
    if both.sum() < 0.5 * np.isfinite(x).sum() or np.count_nonzero(x[kept]) < _LEAST_ROWS:
        return False
    return bool(np.any(other[masked] != 0)) and np.allclose(x[kept], other[kept], rtol=_TOLERANCE, atol=0)
