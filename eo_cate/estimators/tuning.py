"""How many trees, and which options: a forest grown until its ranking is its own, and a score for grid searches."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EstimationError
from eo_cate.estimators.forest.causal_forest import CausalForest
from eo_cate.types import FeatureBlocks

logger = logging.getLogger(__name__)

_LEAST_GROWTH, _MOST_GROWTH, _MARGIN = 1.5, 8.0, 1.05


@dataclass(frozen=True)
class StableForest:
    """A forest and how far its ranking depends on the seed.

    Parameters
    ----------
    forest : CausalForest
        Fitted with the number of trees that was found.
    agreement : float
        Rank correlation of the out-of-bag tau_hat of its two halves; NaN when no tree splits.
    tried : tuple of (int, float)
        Number of trees and agreement of every forest grown on the way.
    """

    forest: CausalForest
    agreement: float
    tried: tuple[tuple[int, float], ...]


def grow_until_stable(
    forest: CausalForest,
    X: FeatureBlocks | NDArray[Any],
    Y: ArrayLike,
    W: ArrayLike,
    *,
    agreement: float = 0.95,
    most_trees: int = 50_000,
    **options: Any,
) -> StableForest:
    """Fit with more trees until the two halves of the forest rank the training units alike (METHODS.md, section 8).

    The first and the second half of the bags are two forests of different seeds and half the trees. So the forest that
    is returned agrees better than ``agreement`` with one of another seed: 2 r / (1 + r), .974 for halves at .95. This
    says that enough trees were grown, not that tau_hat is right.

    Parameters
    ----------
    forest : CausalForest
        Left as it is; ``num_trees`` is where growth starts. The result is, bit for bit, this forest fitted with the
        ``num_trees`` found.
    X, Y, W, **options
        As in `CausalForest.fit`.
    agreement : float
        In (0, 1).
    most_trees : int
        Where growth stops, with a warning in the log when the halves do not agree yet.

    Raises
    ------
    EstimationError
        When ``agreement`` or ``most_trees`` is out of range, and as `CausalForest.fit`.
    """
    from sklearn.base import clone

    if not 0 < agreement < 1:
        raise EstimationError(f"`agreement` is {agreement}: give a number between 0 and 1")
    if most_trees < max(forest.num_trees, 4):
        raise EstimationError(f"`most_trees` is {most_trees}: give at least `num_trees` ({forest.num_trees}), and 4")
    tried: list[tuple[int, float]] = []
    num_trees = max(forest.num_trees, 4)
    while True:
        grown = clone(forest).set_params(num_trees=num_trees).fit(X, Y, W, **options)
        found = halves_agreement(grown)
        tried.append((num_trees, found))
        if np.isnan(found) or found >= agreement:
            break
        if num_trees >= most_trees - most_trees % 2:
            logger.warning(
                "%d trees, and two halves of the forest agree at %.2f only (%.2f is wanted): raise `most_trees`, or "
                "give fewer features",
                num_trees,
                found,
                agreement,
            )
            break
        num_trees = _next_number(num_trees, found, agreement, most_trees)
    return StableForest(grown, found, tuple(tried))


def halves_agreement(forest: CausalForest) -> float:
    """Rank correlation over the training units of the out-of-bag tau_hat of the two halves of the bags.

    NaN when no tree splits (out-of-bag tau_hat then still varies: each is a mean without its own group) or fewer than
    2 units have a tau_hat in both. A forest of as many trees and
    another seed agrees at about 2 r / (1 + r).

    Raises
    ------
    EstimationError
        Before `fit`, or with fewer than 4 trees.
    """
    from scipy.stats import spearmanr

    from eo_cate.estimators.forest.predict import estimate_effects

    fitted = forest.require_fitted()
    bags = len(fitted.trees.in_bag)
    if bags < 2:
        raise EstimationError(f"`num_trees` is {2 * bags}: two halves need 4 trees")
    first, second = (
        estimate_effects(
            fitted.trees.take_bags(part), fitted.row_codes, groups=fitted.row_group, num_threads=forest.num_threads
        )[0][fitted.row_of_unit]
        for part in (slice(0, bags // 2), slice(bags // 2, 2 * (bags // 2)))
    )
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2 or not (fitted.trees.nodes[:, 0] >= 0).any():
        return float("nan")
    return float(spearmanr(first[both], second[both])[0])


def _next_number(num_trees: int, found: float, agreement: float, most_trees: int) -> int:
    """Trees at which the halves should agree, were r = 1 / (1 + noise / trees); even, and at most ``most_trees``."""
    noise = (1 - found) / max(found, 1e-9)
    growth = _MARGIN * noise * agreement / (1 - agreement)
    wanted = math.ceil(num_trees * min(max(growth, _LEAST_GROWTH), _MOST_GROWTH) / 2) * 2
    return min(wanted, most_trees - most_trees % 2)


def negative_r_risk(
    Y: ArrayLike,
    tau_hat: ArrayLike,
    *,
    W: ArrayLike,
    propensity: ArrayLike,
    Y_hat: ArrayLike = 0.0,
    sample_weights: ArrayLike | None = None,
) -> float:
    """Minus the weighted mean of (Y - Y_hat - (W - e) tau_hat)^2 (Nie and Wager 2021): larger is better.

    Made for scikit-learn's searches, which split by group when told so::

        with sklearn.config_context(enable_metadata_routing=True):
            scorer = make_scorer(negative_r_risk).set_score_request(W=True, propensity=True)
            forest = CausalForest().set_fit_request(W=True, propensity=True, groups=True)
            search = GridSearchCV(forest, {"min_node_size": [5, 20]}, scoring=scorer, cv=GroupKFold(5))
            search.fit(X, Y - m_hat, W=W, propensity=e, groups=groups)

    Parameters
    ----------
    Y, tau_hat, W : (n,)
        Outcome, effect learnt from other groups, treatment in {0, 1}.
    propensity, Y_hat : (n,) or scalar
        P(W = 1), and E[Y | x] of other groups; 0 when Y has it taken off already.
    sample_weights : (n,), optional
    """
    y, tau, w, e, m = (np.asarray(values, dtype=np.float64) for values in (Y, tau_hat, W, propensity, Y_hat))
    omega = None if sample_weights is None else np.asarray(sample_weights, dtype=np.float64)
    return -float(np.average((y - m - (w - e) * tau) ** 2, weights=omega))
