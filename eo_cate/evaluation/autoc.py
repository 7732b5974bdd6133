"""AUTOC of many rankings at once: every column has its own priorities and scores."""

from __future__ import annotations

import numpy as np

from eo_cate.evaluation.rate import rank_weights
from eo_cate.types import FloatArray


def autoc_columns(scores: FloatArray, priorities: FloatArray, weights: FloatArray) -> FloatArray:
    """AUTOC (METHODS.md, section 2) of each column.

    Parameters
    ----------
    scores, priorities : (S, B) float64
    weights : (S,) float64
        Positive, shared by the columns.

    Returns
    -------
    (B,) float64
        As `rate` gives it with ``sample_weights``; 0 where all priorities of a column are equal.
    """
    order = np.argsort(-priorities, axis=0, kind="stable")
    ranked = np.take_along_axis(priorities, order, axis=0)
    w = weights[order]
    gain = w * np.take_along_axis(scores, order, axis=0)
    cumulated = np.cumsum(w, axis=0)
    toc = np.cumsum(gain, axis=0) / cumulated - gain.sum(axis=0) / cumulated[-1]
    result: FloatArray = (w * toc).sum(axis=0) / cumulated[-1]
    for column in np.flatnonzero((ranked[1:] == ranked[:-1]).any(axis=0)):
        a = rank_weights(priorities[:, column], weights, target="AUTOC")
        result[column] = np.sum(weights * a * scores[:, column]) / weights.sum()
    return result
