"""Who is in the trial, given x: odds that make the trial's units stand for a region (METHODS.md, section 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import finite_array, group_codes, weights_vector
from eo_cate.types import FloatArray, IntArray

_BINS = 30
_BALANCED = 1e-6
"""Difference of means that balancing aims at, in standard deviations of the trial."""
_STEEPEST = 30.0
"""Largest slope of balancing weights per standard deviation: beyond it one unit is all that is left."""


@dataclass(frozen=True)
class Overlap:
    """Trial and region side by side, to plot.

    Parameters
    ----------
    edges : (B + 1,) float64
        Bins of the membership score (log odds of being in the trial).
    trial_share, weighted_share, region_share : (B,) float64
        Shares of the trial's units, of the same after weighting by the odds, and of the region's cells; each sums to 1.
    moderators : tuple of str, length p
    difference, weighted_difference : (p,) float64
        Trial mean - region mean in standard deviations of the region, before and after weighting.
    """

    edges: FloatArray
    trial_share: FloatArray
    weighted_share: FloatArray
    region_share: FloatArray
    moderators: tuple[str, ...]
    difference: FloatArray
    weighted_difference: FloatArray


@dataclass(frozen=True)
class Membership:
    """Weights that make the trial's n units look like the region's N cells.

    Parameters
    ----------
    odds : (n,) float64
        (1 - p) / p of each unit, p from a model of other groups and other blocks; region and trial count alike.
    weights : (n,) float64
        ``odds`` times the sample weights; balanced where that was asked for.
    region_weights : (N,) float64
    codes : (n,) int64
        Groups 0..G-1 in the order of first appearance.
    num_groups : int
        G.
    effective_groups : float
        (sum w)^2 / sum w^2 over the groups' total weights.
    overlap : Overlap
    """

    odds: FloatArray
    weights: FloatArray
    region_weights: FloatArray
    codes: IntArray
    num_groups: int
    effective_groups: float
    overlap: Overlap
    coefficients: FloatArray
    intercept: float


def fit_membership(
    X: ArrayLike,
    X_region: ArrayLike,
    *,
    groups: ArrayLike,
    blocks: ArrayLike,
    moderators: Sequence[str] | None = None,
    sample_weights: ArrayLike | None = None,
    region_weights: ArrayLike | None = None,
    balance: bool = False,
    num_folds: int = 5,
    seed: int = 0,
) -> Membership:
    """Odds of being in the region rather than in the trial, cross-fitted.

    Parameters
    ----------
    X : (n, p)
        Moderators of the trial's units.
    X_region : (N, p)
        The same of the region's cells.
    groups : (n,) labels
        A unit's odds come from a model that saw none of its group.
    blocks : (N,) labels
        Spatial blocks of the cells: a cell's score comes from a model that saw none of its block.
    moderators : p names, optional
        Of the columns; x1, ..., xp when absent.
    sample_weights : (n,), optional
    region_weights : (N,), optional
        People (or area) of the cells: the effect is theirs. Cells count alike when absent.
    balance : bool
        Change the weights as little as it takes for the trial's weighted means of the moderators to be the region's
        (entropy balancing from the odds): what a wrong shape of the odds leaves of linear bias is gone.
    num_folds : int
    seed : int
        Of the deal of groups and blocks into folds.

    Returns
    -------
    Membership

    Raises
    ------
    EvaluationError
        On values that are not finite, other lengths or numbers of columns, a moderator that is constant in trial and
        region, or fewer groups or blocks than folds; with ``balance``, when no weights balance.

    Notes
    -----
    Logistic regression with an L2 penalty (scikit-learn, C = 1) on columns scaled by the pooled standard deviation.
    Trial and region each weigh as many observations as there are groups: units of a group do not count as independent,
    and the number of cells, which is a matter of resolution, changes nothing. Balanced weights (Hainmueller 2012; for
    transport Josey et al. 2021) are proportional to weight x exp(l'x) with the one l at which the means agree.
    """
    trial, region = _moderators(X, "X"), _moderators(X_region, "X_region")
    if trial.shape[1] != region.shape[1]:
        raise EvaluationError(
            f"`X` has {trial.shape[1]} columns, `X_region` {region.shape[1]}: give the same moderators"
        )
    names = tuple(moderators) if moderators is not None else tuple(f"x{j + 1}" for j in range(trial.shape[1]))
    if len(names) != trial.shape[1]:
        raise EvaluationError(f"`moderators` has {len(names)} names for {trial.shape[1]} columns of `X`")
    codes, num_groups = group_codes(groups, len(trial))
    block, num_blocks = group_codes(blocks, len(region), name="blocks")
    for count, what in ((num_groups, "groups of the trial"), (num_blocks, "spatial blocks of the region")):
        if not 2 <= num_folds <= count:
            raise EvaluationError(f"`num_folds` is {num_folds} for {count} {what}: choose 2 to {count}")
    weights, people = weights_vector(sample_weights, len(trial)), weights_vector(region_weights, len(region))

    rng = np.random.default_rng(seed)
    folds = [
        rng.permutation(np.arange(count) % num_folds)[of] for count, of in ((num_groups, codes), (num_blocks, block))
    ]
    shares = [num_groups * w / w.sum() for w in (weights, people)]
    (score, region_score), slope = _cross_fit(trial, region, names, shares, folds, num_folds)

    odds = np.exp(-score)
    weighted = weights * odds
    if balance:
        weighted = _balance(weighted, trial, np.average(region, axis=0, weights=people), names)
    by_group = np.bincount(codes, weights=weighted)
    overlap = _describe_overlap(trial, region, names, (score, region_score), (weights, weighted, people))
    return Membership(
        odds=odds,
        weights=weighted,
        region_weights=people,
        codes=codes,
        num_groups=num_groups,
        effective_groups=float(by_group.sum() ** 2 / np.sum(by_group**2)),
        overlap=overlap,
        coefficients=slope[1:],
        intercept=float(slope[0]),
    )


def membership_odds(membership: Membership, X: ArrayLike) -> FloatArray:
    """(1 - p) / p at places (n, p): how much commoner such a place is in the region than in the trial.

    It says which places a map shows that the trial hardly has; for weights of the trial's units, which must come from
    models that saw none of the unit's group, use ``Membership.odds``. NaN where a moderator is NaN.
    """
    places = np.asarray(X, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != len(membership.coefficients):
        raise EvaluationError(
            f"`X` has shape {places.shape}, but the model has {len(membership.coefficients)} moderators"
        )
    return np.asarray(np.exp(-(places @ membership.coefficients + membership.intercept)))


def _moderators(values: ArrayLike, name: str) -> FloatArray:
    array = finite_array(name, values)
    if array.ndim != 2 or 0 in array.shape:
        raise EvaluationError(f"`{name}` has shape {array.shape}: give rows of units or cells, moderators in columns")
    return array


def _cross_fit(
    trial: FloatArray,
    region: FloatArray,
    names: tuple[str, ...],
    shares: list[FloatArray],
    folds: list[IntArray],
    num_folds: int,
) -> tuple[tuple[FloatArray, FloatArray], FloatArray]:
    """Log odds of being in the trial, of units (n,) and cells (N,), from models of other folds; and the mean model."""
    from sklearn.linear_model import LogisticRegression

    both = np.vstack([trial, region])
    center, spread = both.mean(axis=0), both.std(axis=0)
    constant = [name for name, flat in zip(names, spread <= 1e-12 * np.abs(center), strict=True) if flat]
    if constant:
        raise EvaluationError(
            f"{len(constant)} moderator(s) are constant in trial and region: {constant[:8]}; drop them"
        )
    scaled = (both - center) / spread
    member, fold = np.repeat([1, 0], [len(trial), len(region)]), np.concatenate(folds)
    share, score = np.concatenate(shares), np.empty(len(both))
    slope = np.zeros(1 + both.shape[1])
    for k in range(num_folds):
        used = (fold != k) & (share > 0)
        if len(np.unique(member[used])) < 2:
            raise EvaluationError("the units or cells with weight are all in one fold: use fewer folds or more weight")
        balance = [share[used & (member == side)].sum() for side in (0, 1)]
        model = LogisticRegression(C=1.0, max_iter=1000)
        model.fit(scaled[used], member[used], sample_weight=share[used] * max(balance) / np.take(balance, member[used]))
        score[fold == k] = model.decision_function(scaled[fold == k])
        own = model.coef_[0] / spread
        slope += np.concatenate([[model.intercept_[0] - own @ center], own]) / num_folds
    return (score[: len(trial)], score[len(trial) :]), slope


def _balance(weights: FloatArray, trial: FloatArray, target: FloatArray, names: tuple[str, ...]) -> FloatArray:
    """Weights times exp(l'x), of the same sum, whose mean of x is the target: the minimum of a convex function of l."""
    from scipy.optimize import Bounds, minimize

    used = weights > 0
    share, spread = weights[used] / weights.sum(), trial[used].std(axis=0)
    away = (trial[used] - target) / np.where(spread > 0, spread, 1.0)

    def tilt(slope: FloatArray) -> tuple[float, FloatArray]:
        power = away @ slope
        tilted = share * np.exp(power - power.max())
        return float(np.log(tilted.sum()) + power.max()), np.asarray(tilted @ away / tilted.sum())

    found = minimize(
        tilt, np.zeros(len(target)), jac=True, method="L-BFGS-B", bounds=Bounds(-_STEEPEST, _STEEPEST),
        options={"gtol": _BALANCED, "ftol": 0.0, "maxiter": 2_000, "maxfun": 20_000},
    )  # fmt: skip
    left = np.abs(tilt(found.x)[1])
    if not left.max() <= 10 * _BALANCED:
        worst = names[int(left.argmax())]
        raise EvaluationError(
            f"no weights of the trial's units have the region's means of the {len(names)} moderators ({worst!r} is "
            "furthest): the region lies beyond the trial; use fewer moderators, or a part of the region"
        )
    power = away @ found.x
    balanced = np.zeros(len(weights))
    balanced[used] = weights[used] * np.exp(power - power.max())
    return np.asarray(balanced * (weights.sum() / balanced.sum()))


def _describe_overlap(
    trial: FloatArray,
    region: FloatArray,
    names: tuple[str, ...],
    scores: tuple[FloatArray, FloatArray],
    weights: tuple[FloatArray, FloatArray, FloatArray],
) -> Overlap:
    units, odds_weighted, people = weights
    edges = np.histogram_bin_edges(np.concatenate(scores), bins=_BINS)
    sides = ((scores[0], units), (scores[0], odds_weighted), (scores[1], people))
    trial_share, weighted_share, region_share = (np.histogram(s, bins=edges, weights=w)[0] / w.sum() for s, w in sides)
    center = np.average(region, axis=0, weights=people)
    spread = np.sqrt(np.average((region - center) ** 2, axis=0, weights=people))
    before, after = (np.average(trial, axis=0, weights=w) - center for w in (units, odds_weighted))
    missing = np.full(len(center), np.nan)
    return Overlap(
        edges=edges,
        trial_share=trial_share,
        weighted_share=weighted_share,
        region_share=region_share,
        moderators=names,
        difference=np.divide(before, spread, out=missing.copy(), where=spread > 0),
        weighted_difference=np.divide(after, spread, out=missing.copy(), where=spread > 0),
    )
