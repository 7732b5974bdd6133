"""Folds by group: no group, matched pair or small stratum is ever split (METHODS.md, section 3, step 0)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, treatment_vector
from eo_cate.types import BoolArray, FloatArray, IntArray

MIN_GROUPS = 40
MIN_GROUPS_PER_FOLD = 12
FEW_GROUPS_FOLDS = 3
MAX_WHOLE_STRATUM = 9
_ATTEMPTS = 20


def choose_num_folds(num_groups: int, num_folds: int = 5) -> int:
    """Folds for sequential inference: ``num_folds``, or 3 when a fold would hold fewer than 12 groups.

    Raises
    ------
    EvaluationError
        Below 40 groups: power fails, no interval is given.
    """
    if num_groups < MIN_GROUPS:
        raise EvaluationError(
            f"{num_groups} groups are too few clusters for an interval (at least {MIN_GROUPS}): "
            "no sequential RATE is computed"
        )
    return min(num_folds, FEW_GROUPS_FOLDS) if num_groups < MIN_GROUPS_PER_FOLD * num_folds else num_folds


def group_folds(
    groups: ArrayLike,
    *,
    W: ArrayLike,
    strata: ArrayLike | None = None,
    num_folds: int = 5,
    seed: int | Sequence[int],
    both_arms: bool = True,
) -> IntArray:
    """Assign whole groups to folds, evenly within strata and arms.

    Matched pairs and strata of up to 9 groups go to one fold as a whole; the groups of larger strata are dealt out
    over the folds, by arm. A group that straddles strata belongs to the one that most of its units are in (ties: the
    stratum that appears first).

    Parameters
    ----------
    groups : (n,) labels
    W : (n,)
        Treatment in {0, 1}; the arms are dealt out evenly.
    strata : (n,) labels, optional
        Randomisation strata of the units; one stratum when absent.
    num_folds : int
    seed : int or sequence of ints
    both_arms : bool
        Whether each fold must hold both arms; if not, a fold of one group will do.

    Returns
    -------
    (n,) int64, fold of each unit in 0..num_folds-1.

    Raises
    ------
    EvaluationError
        When there are fewer groups than folds, or both arms cannot be put in each fold.
    """
    size = len(np.asarray(groups))
    codes, num_groups = group_codes(groups, size)
    treatment = treatment_vector(W, size)
    if not 2 <= num_folds <= num_groups:
        raise EvaluationError(f"`num_folds` is {num_folds} for {num_groups} groups: choose 2 to {num_groups}")
    arm = np.bincount(codes, weights=treatment) / np.bincount(codes)
    refuse_lone_strata(codes, treatment, strata)
    stratum = group_strata(codes, num_groups, strata)
    rng = np.random.default_rng(seed)
    for _ in range(_ATTEMPTS):
        folds: IntArray = _deal_groups(arm, stratum, num_folds, rng)[codes]
        if not both_arms or _has_both_arms(folds, treatment, num_folds):
            return folds
    raise EvaluationError(
        f"both arms cannot be put in each of {num_folds} folds: {int((arm > 0).sum())} of {num_groups} groups have "
        f"treated units, {int((arm < 1).sum())} have controls; use fewer folds or coarser strata"
    )


def flip_units(groups: ArrayLike, strata: ArrayLike | None = None) -> IntArray:
    """What a sign flip moves as a whole (METHODS.md, section 4): the group, or its stratum of 2 to 9 groups.

    Parameters
    ----------
    groups, strata : (n,) labels

    Returns
    -------
    (n,) int64, codes 0..F-1 in the order of first appearance.
    """
    n = len(np.asarray(groups))
    codes, num_groups = group_codes(groups, n)
    stratum = group_strata(codes, num_groups, strata)
    sizes = np.bincount(stratum)
    whole = (sizes[stratum] >= 2) & (sizes[stratum] <= MAX_WHOLE_STRATUM) & (len(sizes) > 1)
    unit = np.where(whole, num_groups + stratum, np.arange(num_groups))
    return group_codes(unit[codes], n)[0]


def group_strata(codes: IntArray, num_groups: int, strata: ArrayLike | None) -> IntArray:
    """Stratum that most units of a group are in, shape (G,)."""
    if strata is None:
        return np.zeros(num_groups, dtype=np.int64)
    labels, num_strata = group_codes(strata, len(codes), name="strata")
    pairs, counts = np.unique(codes * num_strata + labels, return_counts=True)
    ranked = np.lexsort((pairs % num_strata, -counts, pairs // num_strata))
    _, first = np.unique(pairs[ranked] // num_strata, return_index=True)
    majority: IntArray = (pairs[ranked] % num_strata)[first]
    return majority


def refuse_lone_strata(codes: IntArray, W: FloatArray, strata: ArrayLike | None) -> None:
    """Refuse strata of one group in one arm: nothing was randomised inside them.

    A stratum of one group whose units differ in W (households drawn within a village) is a design like any other.

    Raises
    ------
    EvaluationError
        Naming the count.
    """
    if strata is None:
        return
    labels, num_strata = group_codes(strata, len(codes), name="strata")
    pairs = np.unique(np.column_stack([labels, codes]), axis=0)[:, 0]
    share = np.bincount(labels, weights=W) / np.bincount(labels)
    alone = int(((np.bincount(pairs) == 1) & np.isin(share, (0.0, 1.0))).sum())
    if alone and num_strata > 1:
        raise EvaluationError(
            f"`strata`: {alone} of {num_strata} strata hold a single group, all of it in one arm, so nothing was "
            "randomised inside them: merge each with the stratum that it was randomised with, or drop its units"
        )


def _deal_groups(arm: FloatArray, stratum: IntArray, num_folds: int, rng: np.random.Generator) -> IntArray:
    """Fold of each group, shape (G,)."""
    sizes = np.bincount(stratum)
    whole: BoolArray = (sizes[stratum] <= MAX_WHOLE_STRATUM) & (len(sizes) > 1)
    folds = np.full(len(arm), -1, dtype=np.int64)

    loose = np.flatnonzero(~whole)
    place = rng.permutation(len(sizes))[stratum[loose]]
    loose = loose[np.lexsort((rng.random(len(loose)), arm[loose], place))]
    folds[loose] = np.arange(len(loose)) % num_folds

    kept = np.unique(stratum[whole])
    for label in kept[np.lexsort((rng.random(len(kept)), -sizes[kept]))]:
        filled = np.bincount(folds[folds >= 0], minlength=num_folds)
        folds[stratum == label] = rng.choice(np.flatnonzero(filled == filled.min()))
    return rng.permutation(num_folds)[folds].astype(np.int64)


def _has_both_arms(folds: IntArray, treatment: FloatArray, num_folds: int) -> bool:
    treated = np.bincount(folds, weights=treatment, minlength=num_folds)
    return bool(np.all((treated > 0) & (treated < np.bincount(folds, minlength=num_folds))))
