"""From units to the rows that trees are grown on: one per site where features are shared, else one per unit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eo_cate.estimators.forest.bins import Bins, Codes, fit_bins
from eo_cate.types import FeatureBlocks, FloatArray, IntArray

_LINE, _BLOCK = 64, 1024


@dataclass(frozen=True)
class FeatureBins:
    """Bins of all columns, site features first, and their names."""

    bins: Bins
    names: tuple[str, ...]

    def encode(self, X: FeatureBlocks, units: IntArray) -> Codes:
        """Codes of some units, shape (len(units), p); which columns X holds per site need not be as in `fit`."""
        shared = X.site.shape[1]
        own = _encode_rows(self.bins.take(slice(shared, None)), X.unit, units)
        if not shared:
            return own
        sites, place = np.unique(X.site_index[units], return_inverse=True)
        codes = _encode_rows(self.bins.take(slice(shared)), X.site, sites)[place]
        return np.hstack([codes, own]) if own.shape[1] else codes


def _encode_rows(bins: Bins, X: NDArray[np.float32], rows: IntArray) -> Codes:
    """Codes of some rows, a block at a time: no second copy of the features."""
    out = np.empty((len(rows), X.shape[1]), dtype=np.uint8)
    for first in range(0, len(rows), _BLOCK):
        out[first : first + _BLOCK] = bins.encode(X[rows[first : first + _BLOCK]])
    return out


def fit_feature_bins(X: FeatureBlocks) -> FeatureBins:
    """Learn bins on the sites that occur among the units, and on the units."""
    site, unit = fit_bins(X.site[np.unique(X.site_index)]), fit_bins(X.unit)
    return FeatureBins(Bins(np.vstack([site.cuts, unit.cuts])), X.names)


@dataclass(frozen=True)
class Rows:
    """Rows ordered by group, those without weight last, so that a group is a run of rows.

    Parameters
    ----------
    of_unit : (n,) int64
        Row of each unit.
    first : (R,) int64
        A unit of each row.
    group : (R,) int64
        Group of each row.
    start : (G + 1,) int64
        Rows start[g]:start[g + 1] of group g have weight.
    active : (A,) int64
        Groups with such rows.
    sites : (R,) int64 or None
        Site of each row where rows are units of sites that share their first ``num_shared`` columns; within a group
        the rows of a site follow each other.
    num_shared : int
    """

    of_unit: IntArray
    first: IntArray
    group: IntArray
    start: IntArray
    active: IntArray
    sites: IntArray | None = None
    num_shared: int = 0

    def sum(self, values: FloatArray) -> FloatArray:
        """Sums over the units of each row, (n,) -> (R,)."""
        return np.bincount(self.of_unit, weights=values, minlength=len(self.first)).astype(np.float64)


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


def rows_of(X: FeatureBlocks, codes: IntArray, weights: FloatArray) -> Rows:
    """Rows of units in groups 0..G-1: of sites, or of units, by site where sites share features too."""
    rows = make_rows(*distinct_rows(X, codes), codes, weights, sites=X.site_index if X.unit.shape[1] else None)
    return replace(rows, num_shared=X.site.shape[1]) if X.site.shape[1] else replace(rows, sites=None)


def make_rows(
    first: IntArray, place: IntArray, codes: IntArray, weights: FloatArray, *, sites: IntArray | None = None
) -> Rows:
    """Rows from `distinct_rows` of units in groups 0..G-1; a row whose units all have weight 0 is never drawn."""
    has_weight = np.bincount(place, weights=weights, minlength=len(first)) > 0
    site = np.zeros(len(first), dtype=np.int64) if sites is None else sites[first]
    order = np.lexsort((first, site, codes[first], ~has_weight))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    group = codes[first][order]
    counts = np.bincount(group[: int(has_weight.sum())], minlength=int(codes.max()) + 1)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    active = np.flatnonzero(counts).astype(np.int64)
    return Rows(rank[place], first[order], group, start, active, None if sites is None else site[order])


def sum_moments(
    rows: Rows, Y: FloatArray, W: FloatArray, weights: FloatArray, counts: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """The eight numbers of each row (kernels.py): of centred Y and W, and the counts that each child must keep."""
    used = (weights > 0).astype(np.float64)
    columns = [weights, weights * Y, weights * W, weights * W * Y, weights * W * W]
    columns += [used * counts[0], used * counts[1], used]
    return align_rows(np.column_stack([rows.sum(column) for column in columns]))


def align_rows(moments: FloatArray) -> FloatArray:
    """A copy whose rows of eight numbers each lie in one cache line."""
    room = np.empty(moments.size + _LINE // 8)
    first = (-room.ctypes.data % _LINE) // 8
    aligned: FloatArray = room[first : first + moments.size].reshape(moments.shape)
    aligned[:] = moments
    return aligned
