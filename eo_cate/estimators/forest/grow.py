"""Growing a forest over threads, and the flat arrays that remain of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtr

from eo_cate.estimators.forest import kernels
from eo_cate.estimators.forest.bins import MISSING, Codes
from eo_cate.estimators.forest.jit import announce_compilation
from eo_cate.estimators.forest.rows import Rows, align_rows
from eo_cate.types import BoolArray, FloatArray, IntArray

_LEAST_BAGS, _MOST_BAGS, _BLOCKS_PER_THREAD = 4, 64, 8
_MOST_MOMENTS = 2**18
"""Rows times refits at a time: 16 MB of moments."""


@dataclass(frozen=True)
class Rules:
    """How trees are grown.

    Parameters
    ----------
    is_causal : bool
        Split for tau (W varies) or for the mean of Y.
    min_count : float
        Least of each count (kernels.py) in either child.
    alpha : float
        Least share of the node's variation of W (of its count, for a regression) in either child.
    sample_fraction, honesty_fraction : float
    mtry : int or None
    feature_weights : (p,) or None
    """

    is_causal: bool
    min_count: float
    alpha: float
    sample_fraction: float
    honesty_fraction: float
    mtry: int | None
    feature_weights: FloatArray | None


@dataclass(frozen=True)
class Trees:
    """All trees, one after the other; two per bag.

    Parameters
    ----------
    nodes : (N, 2) int32
        (feature, left child) with the right child behind it, or (-1, leaf); counted within the tree.
    cuts : (N, 2) uint8
        Largest code that goes left, and whether missing goes left.
    means : (L, 5) float64
        Means of (omega, omega Y, omega W, omega WY, omega WW) over the estimation units of each leaf.
    node_start, leaf_start : (num_trees + 1,) int64
    in_bag : (bags, G) bool
    """

    nodes: NDArray[np.int32]
    cuts: Codes
    means: FloatArray
    node_start: IntArray
    leaf_start: IntArray
    in_bag: BoolArray

    def take_bags(self, bags: slice) -> Trees:
        """The trees of consecutive bags, arrays shared."""
        first, last, _ = bags.indices(len(self.in_bag))
        part = slice(2 * first, 2 * last + 1)
        return replace(
            self, node_start=self.node_start[part], leaf_start=self.leaf_start[part], in_bag=self.in_bag[first:last]
        )


@dataclass(frozen=True)
class _Plan:
    data: tuple[Any, ...]
    rules: tuple[Any, ...]
    draws: tuple[Any, ...]
    most_rows: int
    most_leaves: int


def default_mtry(p: int) -> int:
    """Features per node as in grf: min(ceil(sqrt p) + 20, p)."""
    return min(math.ceil(math.sqrt(p)) + 20, p)


def grow_forest(
    codes: Codes, rows: Rows, moments: FloatArray, rules: Rules, *, num_trees: int, seed: int, num_threads: int
) -> Trees:
    """Grow num_trees / 2 bags of two trees; the result does not depend on ``num_threads``."""
    plan = _make_plan(codes, rows, moments, rules, seed)

    def work(bags: IntArray) -> tuple[Any, ...]:
        args = plan.data, plan.rules, plan.draws, len(rows.start) - 1, bags, plan.most_rows, plan.most_leaves
        grown: tuple[Any, ...] = kernels.grow_bags(*args)
        return grown

    bags = num_trees // 2
    size = int(np.clip(bags // (_BLOCKS_PER_THREAD * num_threads), _LEAST_BAGS, _MOST_BAGS))
    parts = run_threads(work, blocks_of(bags, size), num_threads)
    in_bag, nodes, cuts, means, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    starts = np.vstack([np.zeros((1, 2), dtype=np.int64), np.cumsum(counts, axis=0)])
    return Trees(nodes, cuts, means, starts[:, 0].copy(), starts[:, 1].copy(), in_bag)


def refit_means(
    codes: Codes,
    rows: Rows,
    moments_of: Callable[[int], FloatArray],
    centres: FloatArray,
    rules: Rules,
    *,
    num_sums: int,
    num_trees: int,
    seed: int,
    num_threads: int,
) -> FloatArray:
    """Out-of-bag means of the first ``num_sums`` leaf moments of B forests on the same bins, bags and seeds.

    Parameters
    ----------
    codes : (R, p) uint8
    rows : Rows
    moments_of : callable
        Moments (R, 8) of refit b; taken a few at a time.
    centres : (B,)
        What the outcomes of each refit were centred at, and what is added to them again.
    rules, num_trees, seed, num_threads
        As in `grow_forest`.

    Returns
    -------
    (R, B, num_sums) float64, NaN where no bag answers; bit for bit what `mean_moments` gives for each forest alone.
    """
    plan = _make_plan(codes, rows, moments_of(0), rules, seed)

    def work(columns: IntArray) -> tuple[FloatArray, IntArray]:
        moments = align_rows(np.stack([moments_of(int(b)) for b in columns]))
        least = np.array([_least_score(own) for own in moments])
        found: tuple[FloatArray, IntArray] = kernels.refit_sums(
            plan.data, plan.rules, plan.draws, rows.group, len(rows.start) - 1, num_trees // 2, plan.most_rows,
            plan.most_leaves, moments, least, centres[columns], num_sums,
        )  # fmt: skip
        return found

    share = -(-len(centres) // num_threads)
    size = int(np.clip(_MOST_MOMENTS // max(len(codes), 1), 1, share))
    parts = run_threads(work, blocks_of(len(centres), size), num_threads)
    sums, answers = np.concatenate([part[0] for part in parts], axis=1), parts[0][1]
    with np.errstate(invalid="ignore", divide="ignore"):
        sums /= (2 * answers)[:, None, None]
    return sums


def _make_plan(codes: Codes, rows: Rows, moments: FloatArray, rules: Rules, seed: int) -> _Plan:
    announce_compilation()
    p = codes.shape[1]
    mtry = default_mtry(p) if rules.mtry is None else min(rules.mtry, p)
    weights = rules.feature_weights
    cumulative = np.empty(0) if weights is None else np.cumsum(weights)
    bag_size = max(int(len(rows.active) * rules.sample_fraction), 2)
    split_size = int(np.clip(round(bag_size * rules.honesty_fraction), 1, bag_size - 1))
    sizes = np.sort(np.diff(rows.start))[::-1]
    units = np.sort(np.bincount(rows.group, weights=moments[:, 5:7].sum(axis=1) / 2))[::-1]
    most_rows = int(sizes[: max(split_size, bag_size - split_size)].sum())
    most_leaves = 1 + min(most_rows, int(units[:split_size].sum() / rules.min_count))
    data = (codes, np.ascontiguousarray(codes.T), moments, codes.max(axis=0) == MISSING, *_site_codes(codes, rows))
    least = _least_score(moments)
    settings = (rules.is_causal, _number_cdf(mtry, p), cumulative, float(rules.min_count), rules.alpha, least)
    draws = (np.uint64(seed), rows.active, rows.start, bag_size, split_size)
    return _Plan(data, settings, draws, most_rows, most_leaves)


def _site_codes(codes: Codes, rows: Rows) -> tuple[NDArray[np.uint32], int, Codes, Codes]:
    """Site of each row, number of leading columns that sites share, and codes of these by site and by column."""
    if rows.sites is None:
        nothing = np.empty((0, 0), dtype=np.uint8)
        return np.empty(0, dtype=np.uint32), 0, nothing, nothing.T.copy()
    _, first, site = np.unique(rows.sites, return_index=True, return_inverse=True)
    shared = np.ascontiguousarray(codes[first, : rows.num_shared])
    return site.astype(np.uint32), rows.num_shared, shared, np.ascontiguousarray(shared.T)


def _least_score(moments: FloatArray) -> float:
    """A tiny part of the sum of squares of the rows' outcomes: scores below it are rounding."""
    return 1e-18 * float((moments[:, 1] ** 2).sum())


def _number_cdf(mtry: int, p: int) -> FloatArray:
    """P(number drawn <= k), k = 1..: Poisson with mean ``mtry``, at least 1, at most p."""
    most = min(p, int(mtry + 10 * math.sqrt(mtry) + 20))
    cdf = np.asarray(pdtr(np.arange(1, most + 1), mtry), dtype=np.float64)
    cdf[-1] = 1.0
    return cdf


def blocks_of(number: int, size: int) -> list[IntArray]:
    """0..number-1 in blocks; where sums are taken over blocks, their size must not depend on the number of threads."""
    every = np.arange(number, dtype=np.int64)
    return [every[first : first + size] for first in range(0, number, size)]


def run_threads(work: Callable[[IntArray], Any], items: Sequence[IntArray], num_threads: int) -> list[Any]:
    """``work`` of each item, in their order."""
    if num_threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    done: list[Any] = joblib.Parallel(n_jobs=num_threads, backend="threading")(joblib.delayed(work)(i) for i in items)
    return done
