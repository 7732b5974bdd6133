"""Features as codes of one byte: values enter the trees only through their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EstimationError
from eo_cate.estimators.forest.jit import kernel
from eo_cate.types import FloatArray

MOST_BINS = 255
MISSING = 255
_PAD = np.inf
_BLOCK = 128
_ONE = np.uint64(1)

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Bins:
    """Cuts between bins, ascending, shape (p, 255), padded with infinity: code = number of cuts below the value."""

    cuts: FloatArray

    def take(self, columns: slice) -> Bins:
        """Bins of some columns."""
        return Bins(self.cuts[columns])

    def encode(self, X: NDArray[Any]) -> Codes:
        """Codes of (rows, p) values; 255 marks NaN."""
        if X.shape[1] != len(self.cuts):
            raise EstimationError(f"{X.shape[1]} columns to encode, but bins of {len(self.cuts)}")
        out = np.empty(X.shape, dtype=np.uint8)
        _encode(np.ascontiguousarray(X, dtype=np.float32), self.cuts, out)
        return out


def fit_bins(X: NDArray[Any]) -> Bins:
    """Bins of each column of (rows, p) values: one per distinct value, or 255 of equally many distinct values.

    Cuts lie midway between neighbouring distinct values, so equal values never part, and how often a value occurs does
    not move them: rows of sites and rows of their units give the same bins.
    """
    cuts = np.full((X.shape[1], MOST_BINS), _PAD)
    for first in range(0, X.shape[1], _BLOCK):
        columns = np.sort(np.ascontiguousarray(X[:, first : first + _BLOCK].T, dtype=np.float32), axis=1)  # NaN last
        plain = (columns[:, 1:] > columns[:, :-1]).all(axis=1) if len(X) else np.zeros(len(columns), dtype=bool)
        cuts[first : first + _BLOCK][plain] = _cut(columns[plain].astype(np.float64))
        for j in np.flatnonzero(~plain):
            column = columns[j]
            distinct = column[np.append(True, column[1:] > column[:-1])] if len(column) else column
            distinct = distinct[~np.isnan(distinct)].astype(np.float64)
            cuts[first + j] = _cut(distinct[None])[0]
    return Bins(cuts)


def _cut(distinct: FloatArray) -> FloatArray:
    """Cuts of columns of equally many distinct values, (columns, values) -> (columns, 255)."""
    number = distinct.shape[1]
    cuts, num_bins = np.full((len(distinct), MOST_BINS), _PAD), min(number, MOST_BINS)
    if num_bins > 1:
        last = (np.arange(1, num_bins) * number) // num_bins - 1
        cuts[:, : num_bins - 1] = (distinct[:, last] + distinct[:, last + 1]) / 2
    return cuts


@kernel
def _encode(X: NDArray[Any], cuts: NDArray[Any], out: NDArray[Any]) -> None:
    """Bisection without branches, a column at a time: its cuts stay near."""
    for j in range(X.shape[1]):
        own = cuts[j]
        for i in range(X.shape[0]):
            x = np.float64(X[i, j])
            place = np.uint64(0)
            for power in range(7, -1, -1):
                step = _ONE << np.uint64(power)
                place += step * np.uint64(own[place + step - _ONE] < x)
            out[i, j] = MISSING if np.isnan(x) else place
