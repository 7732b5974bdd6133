"""Validation of the vectors that numeric functions take: one clear EvaluationError naming argument, count and fix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EvaluationError
from eo_cate.types import FloatArray, IntArray


def finite_array(name: str, values: ArrayLike, *, length: int | None = None) -> FloatArray:
    """Return ``values`` as float64, shape (length, ...); refuse other lengths, NaN and infinities."""
    array = np.asarray(values, dtype=np.float64)
    if length is not None and (array.ndim == 0 or len(array) != length):
        found = len(array) if array.ndim else "a single value"
        raise EvaluationError(f"`{name}` has {found} rows, but there are {length} units: give one value per unit")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise EvaluationError(f"`{name}` has {bad} NaN or infinite values of {array.size}: drop or impute those units")
    return array


def vector(name: str, values: ArrayLike, *, length: int | None = None) -> FloatArray:
    """A finite vector, shape (length,)."""
    array = finite_array(name, values, length=length)
    if array.ndim != 1:
        raise EvaluationError(f"`{name}` has {array.ndim} dimensions, one value per unit is needed: shape (n,)")
    return array


def group_codes(groups: ArrayLike | None, length: int, *, name: str = "groups") -> tuple[IntArray, int]:
    """Codes 0..G-1 in the order of first appearance, shape (n,), and G; every unit its own group when absent.

    Numbering by first appearance makes every draw of groups independent of how the groups are labelled.
    """
    if groups is None:
        return np.arange(length, dtype=np.int64), length
    labels: NDArray[Any] = np.asarray(groups)
    if labels.dtype.kind in "fc":
        raise EvaluationError(f"`{name}` are given as {labels.dtype}: give integer or string labels, one per unit")
    if labels.shape != (length,):
        raise EvaluationError(f"`{name}` has shape {labels.shape}, but there are {length} units: one label per unit")
    if labels.dtype.kind == "O":
        labels = labels.astype(str)
    # Two steps, because np.unique with its inverse holds 41 bytes per unit, more than all of RATE.
    distinct = np.unique(labels)
    inverse = np.searchsorted(distinct, labels)
    first = np.empty(len(distinct), dtype=np.int64)
    first[inverse[::-1]] = np.arange(length)[::-1]
    return np.argsort(np.argsort(first))[inverse].astype(np.int64), len(first)


def weights_vector(sample_weights: ArrayLike | None, length: int, *, codes: IntArray | None = None) -> FloatArray:
    """Non-negative weights, shape (n,), 1 when absent; some weight in each group of ``codes``."""
    if sample_weights is None:
        return np.ones(length)
    weights = vector("sample_weights", sample_weights, length=length)
    negative = int((weights < 0).sum())
    if negative:
        raise EvaluationError(f"`sample_weights` has {negative} negative values: weights must be zero or positive")
    empty = int((np.bincount(codes, weights=weights) <= 0).sum()) if codes is not None else int(weights.sum() <= 0)
    if empty:
        raise EvaluationError(f"`sample_weights` are all zero in {empty} group(s): drop the units of those groups")
    return weights


def treatment_vector(W: ArrayLike, length: int) -> FloatArray:
    """Treatment in {0, 1}, shape (n,)."""
    treatment = vector("W", W, length=length)
    bad = int((~np.isin(treatment, (0.0, 1.0))).sum())
    if bad:
        raise EvaluationError(f"`W` has {bad} values other than 0 and 1: code the treatment as 0/1")
    return treatment


def propensity_vector(propensity: ArrayLike, length: int) -> FloatArray:
    """P(W = 1), shape (n,), from a scalar or a vector, strictly between 0 and 1."""
    known = np.asarray(propensity, dtype=np.float64)
    known = vector("propensity", np.full(length, known) if known.ndim == 0 else known, length=length)
    bad = int(((known <= 0) | (known >= 1)).sum())
    if bad:
        raise EvaluationError(
            f"`propensity` has {bad} values outside (0, 1): units that could only be treated, or only be controls, "
            "carry no effect; drop them"
        )
    return known
