"""What a place looks like, in numbers that a true effect can be made of.

A centre (row, col) is a pixel CORNER: a box of even side s holds rows [row - s // 2, row + s // 2), columns alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate.types import FloatArray


def box_means(field: NDArray[Any], centres: pd.DataFrame, *, size_px: int, without_px: int = 0) -> FloatArray:
    """Mean of a (y, x) field in the box around each centre, optionally without an inner box; shape (cell,).

    Parameters
    ----------
    field : (y, x)
        Numbers or booleans (then the mean is a share).
    centres : DataFrame
        Columns ``row`` and ``col``, pixel corners; the boxes must lie inside the field.
    size_px, without_px : int
        Sides of the box and of the inner box that is left out.
    """
    return np.array(
        [
            (_box_sum(field, row, col, size_px) - _box_sum(field, row, col, without_px)) / (size_px**2 - without_px**2)
            for row, col in zip(centres["row"], centres["col"], strict=True)
        ]
    )


def _box_sum(field: NDArray[Any], row: int, col: int, size: int) -> float:
    top, left = row - size // 2, col - size // 2
    return float(field[top : top + size, left : left + size].sum(dtype=np.float64))


def gradient_size(band: NDArray[np.float32]) -> NDArray[np.float32]:
    """Length of the gradient per pixel (central differences), shape (y, x)."""
    down, right = np.gradient(band)
    return np.asarray(np.hypot(down, right), dtype=np.float32)


def normalised_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(a - b) / (a + b) per pixel; NaN where the sum is not positive."""
    total = a + b
    return np.asarray(np.divide(a - b, total, out=np.full_like(total, np.nan), where=total > 0))


def standardise(values: FloatArray) -> FloatArray:
    """z(): minus the mean, over the standard deviation (divisor n)."""
    return np.asarray((values - values.mean()) / values.std())
