"""Scaling of features, learnt on training sites and units only, missing values included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EvaluationError
from eo_cate.types import BoolArray, FeatureBlocks, FloatArray

TABULAR = "tabular"
_CONSTANT = 1e-6
_RANK_TOLERANCE = 1e-12


@dataclass(frozen=True)
class ColumnScaling:
    """Centre, scale and impute columns as the training rows say.

    Parameters
    ----------
    mean, scale : (p,) float64
        Subtracted, then multiplied; a column that is constant in training has scale 0. Missing becomes the mean.
    indicators : (p, k) bool
        Columns whose missing values set indicator k.
    indicator_mean, indicator_scale : (k,) float64
    """

    mean: FloatArray
    scale: FloatArray
    indicators: BoolArray
    indicator_mean: FloatArray
    indicator_scale: FloatArray

    def apply(self, X: NDArray[Any]) -> FloatArray:
        """Scaled columns and indicators, shape (rows, p + k)."""
        values = np.asarray(X, dtype=np.float64)
        _refuse_infinite(values)
        missing = np.isnan(values)
        scaled = np.where(missing, 0.0, values - self.mean) * self.scale
        flags = (_flag(missing, self.indicators) - self.indicator_mean) * self.indicator_scale
        return np.hstack([scaled, flags])


def fit_site_scaling(blocks: FeatureBlocks) -> ColumnScaling:
    """Scale site features over the unique sites of the units: sd 1, then each image block to mean squared row norm 1.

    Tabular columns keep sd 1 each; missing values of an image block share one indicator.
    """
    p = blocks.site.shape[1]
    names = np.array(blocks.blocks[:p], dtype=str)
    X = blocks.site[np.unique(blocks.site_index)]
    tabular = names == TABULAR
    labels = np.where(tabular, np.arange(p).astype(str), np.char.add("block ", names)) if p else names
    scaling = _fit(X, labels, np.ones(len(X)))
    scale = scaling.scale.copy()
    standard = scaling.apply(X)[:, :p]
    for name in np.unique(names[~tabular]):
        inside = names == name
        norm = np.sqrt((standard[:, inside] ** 2).sum(axis=1).mean())
        scale[inside] /= norm if norm > 0 else 1.0
    return ColumnScaling(scaling.mean, scale, scaling.indicators, scaling.indicator_mean, scaling.indicator_scale)


def fit_unit_scaling(blocks: FeatureBlocks, weights: FloatArray) -> ColumnScaling:
    """Scale unit features to sd 1 each over the (weighted) units, with an indicator per column that has gaps."""
    return _fit(blocks.unit, np.arange(blocks.unit.shape[1]).astype(str), weights)


def rotate_wide(F: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotate (S, p) features onto at most S columns that ridge cannot tell from them: scores (S, k), rotation (p, k).

    scores = F rotation; the rotation has orthonormal columns, so coefficients of F are rotation @ coefficients of the
    scores. From the S x S Gram matrix, so several thousand features cost no more than the sites do.
    """
    rows, columns = F.shape
    if columns <= rows:
        return F, np.eye(columns)
    values, vectors = np.linalg.eigh(F @ F.T)
    kept = values > _RANK_TOLERANCE * max(values[-1], np.finfo(np.float64).tiny)
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, F.T @ (vectors[:, kept] / root)


def _fit(X: NDArray[Any], labels: NDArray[np.str_], weights: FloatArray) -> ColumnScaling:
    values = np.asarray(X, dtype=np.float64)
    _refuse_infinite(values)
    missing = np.isnan(values)
    mean, scale = _moments(np.where(missing, 0.0, values), np.where(missing, 0.0, weights[:, None]))
    gaps = np.unique(labels[missing.any(axis=0)])
    indicators: BoolArray = labels[:, None] == gaps[None, :]
    flags = _flag(missing, indicators)
    return ColumnScaling(mean, scale, indicators, *_moments(flags, np.broadcast_to(weights[:, None], flags.shape)))


def _refuse_infinite(values: FloatArray) -> None:
    bad = int(np.isinf(values).sum())
    if bad:
        raise EvaluationError(f"features hold {bad} infinite values of {values.size}: mark them as missing (NaN)")


def _flag(missing: BoolArray, indicators: BoolArray) -> FloatArray:
    return ((missing.astype(np.float64) @ indicators.astype(np.float64)) > 0).astype(np.float64)


def _moments(values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and 1 / sd of each column; 0 for the scale of a constant one."""
    total = weights.sum(axis=0)
    total = np.where(total > 0, total, 1.0)
    mean = (weights * values).sum(axis=0) / total
    sd = np.sqrt((weights * (values - mean) ** 2).sum(axis=0) / total)
    varies = sd > _CONSTANT * np.abs(mean)
    return mean, np.where(varies, 1.0 / np.where(varies, sd, 1.0), 0.0)
