"""The forest as it was before the engine: econml's compiled trees, driven by group (benchmarks/forest.py's rival).

econml's private classes are driven directly because its public forest splits units, not groups: bags, honesty and leaf
means are made here, splits are econml's. Units are rows; it knows no sites and no missing values.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from eo_cate.estimators.forest.estimates import debiased_variance, influence_coefficients, solve_effect

NUM_MOMENTS = 5
_LEAF = -1
_UNLIMITED = 2**31 - 1


@functools.cache
def load_engine() -> SimpleNamespace:
    """Import the compiled classes of econml (slow, and noisy)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from econml.grf._criterion import LinearMomentGRFCriterion
        from econml.tree._splitter import BestSplitter
        from econml.tree._tree import DepthFirstTreeBuilder, Tree
    return SimpleNamespace(
        Criterion=LinearMomentGRFCriterion, Splitter=BestSplitter, Builder=DepthFirstTreeBuilder, Tree=Tree
    )


@dataclass(frozen=True)
class GrowOptions:
    """What limits a split: features tried, units and share of each arm left in either child."""

    mtry: int
    min_leaf: int
    alpha: float
    min_arm_share: float


@dataclass(frozen=True)
class GrownTree:
    """A tree and the means of `unit_moments` over the estimation units of each node's leaf, shape (nodes, 5)."""

    tree: Any
    means: np.ndarray

    def apply(self, matrix: np.ndarray) -> np.ndarray:
        """Leaf of each row."""
        leaf: np.ndarray = self.tree.apply(matrix)
        return leaf


def unit_moments(Y: np.ndarray, W: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(omega, omega Y, omega W, omega WY, omega WW) per unit of centred Y and W, shape (n, 5)."""
    return np.column_stack([weights, weights * Y, weights * W, weights * W * Y, weights * W * W])


def split_moments(Y: np.ndarray, W: np.ndarray, propensity: np.ndarray) -> np.ndarray:
    """Columns (Y, A, J) of the local moment equation E[A - J (tau, mu)] = 0, in econml's order, shape (n, 7).

    With v = W - e + mean e (W itself when e is constant) regress Y on (v, 1) by the instruments (v, 1 - v): the
    solution and the gradient scores are those of (v, 1), whatever invertible mix of instruments is taken, while the
    diagonal of J holds the shares of treated and of controls, which is what econml can bound from below in each child.
    """
    v = W - propensity + propensity.mean()
    return np.ascontiguousarray(np.column_stack([Y, v * Y, (1 - v) * Y, v * v, (1 - v) * v, v, 1 - v]))


def grow_tree(
    matrix: np.ndarray,
    split: np.ndarray,
    moments: np.ndarray,
    *,
    split_rows: np.ndarray,
    estimation_rows: np.ndarray,
    weights: np.ndarray | None,
    options: GrowOptions,
    seeds: tuple[int, int],
) -> GrownTree:
    """Grow a tree on the split half and fill its leaves from the estimation half (METHODS.md, section 8, 7 and 8).

    Parameters
    ----------
    matrix : (n, p) float64
        Of all units; only the given rows are read. Columns should be contiguous.
    split, moments : (n, 7) and (n, 5)
        From `split_moments` and `unit_moments`.
    split_rows, estimation_rows : (m,) int
    weights : (n,) float64 or None
        Enter node sums and split scores.
    """
    engine = load_engine()
    p = matrix.shape[1]
    criterion = engine.Criterion(2, 1, p, 1, len(matrix), len(split_rows), seeds[0])
    splitter = engine.Splitter(
        criterion,
        criterion,
        options.mtry,
        options.min_leaf,
        0.0,
        0.5 - options.alpha,
        False,
        options.min_arm_share,
        False,
        seeds[1],
    )
    tree = engine.Tree(p, 2, 1, store_jac=False)
    builder = engine.Builder(splitter, 2 * options.min_leaf, options.min_leaf, 0.0, _UNLIMITED, 0.0)
    builder.build(tree, matrix, split, split_rows, split_rows, weights, False)
    leaf = tree.apply(matrix[estimation_rows])
    count = np.bincount(leaf, minlength=tree.node_count)
    narrow_to_estimated(tree, count)
    sums = [np.bincount(leaf, moments[estimation_rows, j], tree.node_count) for j in range(NUM_MOMENTS)]
    return GrownTree(tree=tree, means=np.stack(sums, axis=1) / np.maximum(count, 1)[:, None])


def narrow_to_estimated(tree: Any, count: np.ndarray) -> None:
    """Send every row past children that hold no estimation unit, by opening the threshold towards the other child.

    Estimation units themselves never change leaf: none lies in the child that is closed. ``count`` is per leaf.
    """
    left, right = tree.children_left, tree.children_right
    empty: np.ndarray = (left == _LEAF) & (count == 0)
    if not empty.any():
        return
    threshold, total, left_of, right_of = tree.threshold, count.tolist(), left.tolist(), right.tolist()
    for node in range(tree.node_count - 1, -1, -1):  # children come after their parent
        if left_of[node] == _LEAF:
            continue
        in_left, in_right = total[left_of[node]], total[right_of[node]]
        total[node] = in_left + in_right
        if in_left == 0:
            threshold[node] = -np.inf
        elif in_right == 0:
            threshold[node] = np.inf


def grow_bags(X, Y, W, groups, *, num_trees, mtry, seed):
    """Bags of half of the groups, two honest trees each: (in_bag (bags, G), [(tree, tree)])."""
    matrix = np.asfortranarray((X - X.mean(axis=0)) / X.std(axis=0))
    e, num_groups = np.full(len(Y), 0.5), int(groups.max()) + 1
    split, moments = split_moments(Y - Y.mean(), W, e), unit_moments(Y - Y.mean(), W - e, np.ones(len(Y)))
    options = GrowOptions(mtry=mtry, min_leaf=10, alpha=0.05, min_arm_share=0.05 * (1 - 1e-5))
    rng, in_bag, bags = np.random.default_rng(seed), np.zeros((num_trees // 2, num_groups), bool), []
    for b in range(num_trees // 2):
        drawn = rng.permutation(num_groups)[: num_groups // 2]
        in_bag[b, drawn] = True
        pair = []
        for _ in range(2):
            order = rng.permutation(drawn)
            first, second = (np.isin(groups, half) for half in np.split(order, [round(len(order) / 2)]))
            pair.append(
                grow_tree(
                    matrix,
                    split,
                    moments,
                    split_rows=np.flatnonzero(first),
                    estimation_rows=np.flatnonzero(second),
                    weights=None,
                    options=options,
                    seeds=tuple(int(k) for k in rng.integers(1, 2**31 - 1, size=2)),
                )
            )
        bags.append(tuple(pair))
    return matrix, in_bag, bags


def estimate_oob(matrix, in_bag, bags, groups):
    """Out-of-bag tau_hat and standard error of each unit."""
    n = len(matrix)
    means = np.empty((len(bags), 2, n, NUM_MOMENTS))
    for b, bag in enumerate(bags):
        for t, grown in enumerate(bag):
            means[b, t] = grown.means[grown.apply(matrix)]
    use = ~in_bag[:, groups]
    means *= use[:, None, :, None]
    count = use.sum(axis=0)
    average = means.sum(axis=(0, 1)) / (2 * count)[:, None]
    tau_hat = solve_effect(average)
    r = np.einsum("btij,ij->bti", means, influence_coefficients(average, tau_hat))
    between, total = (r.mean(axis=1) ** 2).sum(axis=0) / count, (r**2).mean(axis=1).sum(axis=0) / count
    return tau_hat, np.sqrt(debiased_variance(between, total, count))
