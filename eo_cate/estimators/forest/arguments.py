"""Checks of the vectors that fits and refits take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.stats import checks
from eo_cate.types import FloatArray, IntArray


@dataclass(frozen=True)
class Units:
    """Checked vectors of the units, (n,) each: weights of mean 1, groups as codes 0..G-1."""

    Y: FloatArray
    W: FloatArray
    weights: FloatArray
    codes: IntArray


def check_units(n: int, Y: Any, W: Any, sample_weights: Any, groups: Any, min_node_size: int) -> Units:
    """Vectors of the units.

    Raises
    ------
    EstimationError
        Naming the argument, what was found and what to change.
    """
    try:
        outcome, treatment = checks.vector("Y", Y, length=n), checks.treatment_vector(W, n)
        weights = checks.weights_vector(sample_weights, n)
        codes, _ = checks.group_codes(groups, n)
    except EvaluationError as error:
        raise EstimationError(str(error)) from error
    used = int((weights > 0).sum())
    if used < 4 * min_node_size:
        raise EstimationError(f"`Y` has {used} units with weight: fewer than 4 x `min_node_size` ({4 * min_node_size})")
    treated = int(treatment[weights > 0].sum())
    if treated in (0, used):
        raise EstimationError(f"`W` has {treated} treated units of {n}: both arms are needed to learn an effect")
    return Units(Y=outcome, W=treatment, weights=weights / weights.mean(), codes=codes)


def check_columns(name: str, values: Any, n: int) -> FloatArray:
    """Columns of (n,) or (n, B) finite values as rows, (B, n).

    Raises
    ------
    EstimationError
        Naming shape or count.
    """
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim not in (1, 2) or len(columns) != n or not columns.size:
        raise EstimationError(f"`{name}` has shape {columns.shape}: give ({n},), or ({n}, B) with a column per refit")
    gaps = int((~np.isfinite(columns)).sum())
    if gaps:
        raise EstimationError(f"`{name}` has {gaps} NaN or infinite values: give finite numbers")
    return np.ascontiguousarray(columns.reshape(n, -1).T)


def check_refits(
    Y_res: ArrayLike, W_res: ArrayLike, W_raw: ArrayLike, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Outcomes, treatments and arms of each refit, (B, n) each; what is the same for all is not copied.

    Raises
    ------
    EstimationError
        Naming the argument, what was found and what to change.
    """
    given = {"Y_res": Y_res, "W_res": W_res, "W_raw": W_raw}
    columns = {name: check_columns(name, values, len(weights)) for name, values in given.items()}
    numbers = {name: len(found) for name, found in columns.items()}
    B = max(numbers.values())
    if set(numbers.values()) - {1, B}:
        raise EstimationError(f"columns are {numbers}: give one per refit in each, or one for all refits")
    arms = columns["W_raw"]
    other = int(((arms != 0) & (arms != 1)).sum())
    if other:
        raise EstimationError(f"`W_raw` has {other} values other than 0 and 1: it counts the arms of a node")
    means = arms[:, weights > 0].mean(axis=1)
    empty = int(((means == 0) | (means == 1)).sum())
    if empty:
        raise EstimationError(f"`W_raw` has {empty} columns of one arm only: both are needed to learn an effect")
    n = len(weights)
    Y, T, arms = (np.broadcast_to(found, (B, n)) for found in columns.values())
    return Y, T, arms
