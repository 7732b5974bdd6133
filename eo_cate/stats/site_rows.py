"""From units to the rows of a kernel: one per site, with the means of unit features (METHODS.md, section 3, step 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_cate.errors import EvaluationError
from eo_cate.stats.columns import ColumnScaling, fit_site_scaling, fit_unit_scaling
from eo_cate.types import FeatureBlocks, FloatArray, IntArray


@dataclass(frozen=True)
class SiteRows:
    """Rows that share their pixels.

    Parameters
    ----------
    row : (n,) int64
        Row of each unit, 0..S-1.
    first : (S,) int64
        A unit of each row.
    """

    row: IntArray
    first: IntArray

    def mean(self, values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
        """Mean over the units of each row, of (n,) or (n, q) values; rows without weight give 0."""
        omega = np.ones(len(self.row)) if weights is None else weights
        total = np.bincount(self.row, weights=omega, minlength=len(self.first))
        total = np.where(total > 0, total, 1.0)
        if values.ndim == 1:
            return np.asarray(np.bincount(self.row, weights=omega * values, minlength=len(self.first)) / total)
        sums = [np.bincount(self.row, weights=omega * column, minlength=len(self.first)) for column in values.T]
        return np.column_stack([np.zeros((len(self.first), 0)), *sums]) / total[:, None]

    def sum(self, weights: FloatArray) -> FloatArray:
        """Total weight of each row, shape (S,)."""
        return np.asarray(np.bincount(self.row, weights=weights, minlength=len(self.first)), dtype=np.float64)


def find_rows(X: FeatureBlocks, codes: IntArray | None = None) -> SiteRows:
    """Rows of the units: their sites; without sites (a plain array), units of equal features and equal group.

    Parameters
    ----------
    X : FeatureBlocks of n units
    codes : (n,) int, optional
        Groups, that no site may straddle.

    Raises
    ------
    EvaluationError
        When a site lies in several groups: leaving a group out would not leave its pixels out.
    """
    if len(X.site) > 1 or X.site.shape[1]:
        _, first, row = np.unique(X.site_index, return_index=True, return_inverse=True)
        _refuse_straddling(row, first, codes)
    else:
        keys = X.unit if codes is None else np.column_stack([codes, X.unit])
        _, first, row = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return SiteRows(row.reshape(-1).astype(np.int64), first.astype(np.int64))


def _refuse_straddling(row: IntArray, first: IntArray, codes: IntArray | None) -> None:
    if codes is None:
        return
    straddling = len(np.unique(row[codes != codes[first][row]]))
    if straddling:
        raise EvaluationError(
            f"{straddling} of {len(first)} sites are shared by several `groups`: splitting by group would leave their "
            "pixels on both sides; take the connected components of cluster and site (`connected_groups`)"
        )


def average_rows(X: FeatureBlocks, rows: SiteRows) -> FeatureBlocks:
    """One unit per row: the features of its site, and the means of its units' features over those observed."""
    present = ~np.isnan(X.unit)
    share = rows.mean(present.astype(np.float64))
    total = rows.mean(np.where(present, X.unit, 0.0).astype(np.float64))
    unit = total / np.where(share > 0, share, np.nan)
    return FeatureBlocks(
        site=X.site[X.site_index[rows.first]],
        unit=unit.astype(np.float32),
        site_index=np.arange(len(rows.first), dtype=np.int64),
        names=X.names,
        blocks=X.blocks,
    )


@dataclass(frozen=True)
class RowScaling:
    """Features of rows as a kernel sees them: imputed, standardised, each block of mean squared row norm 1.

    Parameters
    ----------
    site, unit : ColumnScaling
        Learnt on training rows; the unit features together are one block.
    names : tuple of str
        Columns that it was learnt on.
    """

    site: ColumnScaling
    unit: ColumnScaling
    names: tuple[str, ...]

    def apply(self, rows: FeatureBlocks) -> FloatArray:
        """Scaled features (S, P) of rows from `average_rows`.

        Raises
        ------
        EvaluationError
            When the columns are not those of the training data.
        """
        if rows.names != self.names:
            raise EvaluationError(f"`X` has {len(rows.names)} columns that are not the {len(self.names)} of `fit`")
        unit = self.unit.apply(rows.unit)
        varying = int(np.count_nonzero(np.append(self.unit.scale, self.unit.indicator_scale)))
        return np.hstack([self.site.apply(rows.site), unit / np.sqrt(max(varying, 1))])


def fit_row_scaling(rows: FeatureBlocks) -> RowScaling:
    """Learn `RowScaling` from training rows."""
    return RowScaling(fit_site_scaling(rows), fit_unit_scaling(rows, np.ones(len(rows))), rows.names)
