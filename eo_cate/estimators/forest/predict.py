"""From leaf means to estimates and the debiased little-bags variance, a block of rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.estimators.forest.bins import Codes
from eo_cate.estimators.forest.estimates import debiased_variance, influence_coefficients, solve_effect
from eo_cate.estimators.forest.grow import Trees, blocks_of, run_threads
from eo_cate.estimators.forest.jit import bare
from eo_cate.estimators.forest.kernels import walk
from eo_cate.types import FloatArray, IntArray

_MOST_LEAVES = 2**21
_MOST_ROWS = 1024
_NO_GROUP = -1


def mean_moments(
    trees: Trees, codes: Codes, *, groups: IntArray | None = None, std_err: bool = False, num_threads: int = 1
) -> tuple[FloatArray, FloatArray | None]:
    """Forest means (rows, 5) of the leaves' moments, and the variance of the effect that they solve for.

    Parameters
    ----------
    trees : Trees
    codes : (rows, p) uint8
    groups : (rows,) int or None
        Group of each row: its bags are left out. None: all bags answer.
    std_err : bool
        Whether the variance is wanted (for causal forests).

    Returns
    -------
    means : (rows, 5), NaN where no bag answers; variance : (rows,) or None
    """
    num_trees = len(trees.node_start) - 1
    size = int(np.clip(_MOST_LEAVES // max(num_trees, 1), 16, _MOST_ROWS))
    of_rows = np.full(len(codes), _NO_GROUP, dtype=np.int64) if groups is None else groups
    arrays = trees.nodes, trees.cuts, trees.means, trees.node_start, trees.leaf_start, trees.in_bag

    def work(block: IntArray) -> tuple[FloatArray, FloatArray]:
        own = codes[block[0] : block[-1] + 1], of_rows[block]
        leaves = np.empty((num_trees, len(block)), dtype=np.int32)
        means, bags = np.zeros((len(block), trees.means.shape[1])), np.zeros(len(block), dtype=np.int64)
        _sum_leaves(*arrays, *own, leaves, means, bags)
        with np.errstate(divide="ignore", invalid="ignore"):
            means /= (2 * bags)[:, None]
        if not std_err:
            return means, np.empty(0)
        moments = np.zeros((len(block), 2))
        _sum_squares(trees.means, leaves, influence_coefficients(means, solve_effect(means)), moments)
        with np.errstate(divide="ignore", invalid="ignore"):
            between, total = (moments / bags[:, None]).T
            return means, debiased_variance(between, total, bags)

    parts = run_threads(work, blocks_of(len(codes), size), num_threads)
    means = np.concatenate([np.empty((0, trees.means.shape[1])), *(part[0] for part in parts)])
    return means, np.concatenate([np.empty(0), *(part[1] for part in parts)]) if std_err else None


def estimate_effects(
    trees: Trees, codes: Codes, *, groups: IntArray | None = None, std_err: bool = False, num_threads: int = 1
) -> tuple[FloatArray, FloatArray | None]:
    """tau_hat and, when wanted, its standard error, (rows,) each."""
    means, variance = mean_moments(trees, codes, groups=groups, std_err=std_err, num_threads=num_threads)
    return solve_effect(means), None if variance is None else np.sqrt(variance)


def estimate_means(trees: Trees, codes: Codes, *, groups: IntArray | None = None, num_threads: int = 1) -> FloatArray:
    """Predictions of a regression forest, (rows,)."""
    means, _ = mean_moments(trees, codes, groups=groups, num_threads=num_threads)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: FloatArray = means[:, 1] / means[:, 0]
    return found


@bare
def _sum_leaves(
    nodes: NDArray[Any],
    cuts: NDArray[Any],
    means: NDArray[Any],
    node_start: NDArray[Any],
    leaf_start: NDArray[Any],
    in_bag: NDArray[Any],
    codes: NDArray[Any],
    groups: NDArray[Any],
    leaves: NDArray[Any],
    sums: NDArray[Any],
    bags: NDArray[Any],
) -> None:
    """Each row's leaf in every tree (-1: left out), sums of leaf means in the order of trees, and bags that answer."""
    num_moments = means.shape[1]
    for t in range(len(node_start) - 1):
        own_nodes, own_cuts = nodes[node_start[t] :], cuts[node_start[t] :]
        for i in range(len(codes)):
            if groups[i] >= 0 and in_bag[t >> 1, groups[i]]:
                leaves[t, i] = -1
                continue
            leaf = leaf_start[t] + walk(own_nodes, own_cuts, codes, i)
            leaves[t, i] = leaf
            bags[i] += t & 1
            for j in range(num_moments):
                sums[i, j] += means[leaf, j]


@bare
def _sum_squares(means: NDArray[Any], leaves: NDArray[Any], coefficients: NDArray[Any], out: NDArray[Any]) -> None:
    """Sums over bags of (mean of the bag's two r)^2 and of the mean of its two r^2."""
    for b in range(len(leaves) // 2):
        for i in range(leaves.shape[1]):
            if leaves[2 * b, i] < 0:
                continue
            first = second = 0.0
            for j in range(coefficients.shape[1]):
                first += coefficients[i, j] * means[leaves[2 * b, i], j]
                second += coefficients[i, j] * means[leaves[2 * b + 1, i], j]
            out[i, 0] += ((first + second) / 2) ** 2
            out[i, 1] += (first * first + second * second) / 2
