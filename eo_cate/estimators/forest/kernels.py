"""The compiled engine of both forests: trees, bags, walks (METHODS.md, section 8).

Rows are sites or units; each has eight numbers: sums over its units of (omega, omega Y, omega W, omega WY, omega WW),
the two counts that each child must keep (treated and controls; for a regression the same count twice), and the number
of units. No result depends on threads, blocks of bags or the form of the rows: random numbers are hashes (draws.py),
and a score must beat the best by a factor 1 + 1e-5, because in small nodes many features induce the same partition and
rounding must not choose among them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_cate.estimators.forest.draws import (
    derive,
    draw_bag,
    draw_halves,
    draw_number,
    draw_uniform,
    draw_weighted,
)
from eo_cate.estimators.forest.jit import LANES, NUM_VALUES, WIDTH, kernel
from eo_cate.estimators.forest.nodes import (
    COUNT_A,
    COUNT_B,
    OMEGA,
    UNITS,
    Y_SUM,
    causal_values,
    divide_features,
    gather_codes,
    regression_values,
    sum_rows,
    sum_sites,
)
from eo_cate.estimators.forest.splits import find_split, goes_left

LEAF = -1
_CODES = 256


@kernel
def _partition(
    rows: Any,
    low: Any,
    high: Any,
    spare: Any,
    codes: Any,
    feature: Any,
    cut: Any,
    missing_left: Any,
) -> Any:
    """Rows of the left child first, order kept in both; returns where the right child starts."""
    middle, others = low, 0
    for i in range(low, high):
        r = rows[i]
        left = goes_left(codes[feature, r], cut, missing_left)
        rows[middle], spare[others] = r, r  # both, without a branch; only one of them stays
        middle += left
        others += not left
    for i in range(others):
        rows[middle + i] = spare[i]
    return middle


@kernel
def _grow_tree(
    data: Any,
    rules: Any,
    scratch: Any,
    seed: Any,
    split_rows: Any,
    num_split: Any,
    estimation_rows: Any,
    num_estimation: Any,
    nodes: Any,
    cuts: Any,
    means: Any,
) -> Any:
    """Grow on the split rows, fill the leaves from the estimation rows; returns the numbers of nodes and leaves.

    ``nodes[k]`` is (feature, left child) or (LEAF, leaf); the right child follows the left. ``cuts[k]`` is (code,
    missing left). A child without estimation rows is closed: its node becomes the other child and is split again.
    """
    codes, columns, moments, has_missing, sites, num_shared, site_codes, site_columns = data
    is_causal, number_cdf, cumulative, min_count, alpha, least_score = rules
    (
        order, swaps, drawn, marked, keys, gathered, values, work, spare, stack, seeds, node, total, best, state,
        shared, own, runs,
    ) = scratch  # fmt: skip
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3], stack[0, 4] = (
        0,
        0,
        num_split,
        0,
        num_estimation,
    )
    seeds[0] = seed
    depth, num_nodes, num_leaves = 1, 1, 0
    while depth:
        depth -= 1
        k, low, high, first, last = (
            stack[depth, 0],
            stack[depth, 1],
            stack[depth, 2],
            stack[depth, 3],
            stack[depth, 4],
        )
        here = seeds[depth]
        while True:
            best[0], best[1], best[2] = 0.0, 1.0, -1.0
            sum_rows(moments, split_rows, low, high, node)
            can_split = high - low > 1 and node[0, COUNT_A] >= 2 * min_count and node[0, COUNT_B] >= 2 * min_count
            if can_split and is_causal:
                can_split = causal_values(moments, split_rows, low, high, node, values)
            elif can_split:
                regression_values(moments, split_rows, low, high, node, values)
            if can_split:
                best[0], best[1] = least_score / node[0, OMEGA], 1.0
                state[0] = here
                number = draw_number(state, number_cdf)
                if len(cumulative):
                    number = draw_weighted(state, cumulative, marked, keys, drawn, number)
                else:
                    number = draw_uniform(state, order, swaps, drawn, number)
                num_runs, base = 0, 0
                if num_shared:
                    num_runs = sum_sites(sites, moments, values, split_rows, low, high, runs)
                    m, q = divide_features(drawn, number, num_shared, shared, own)
                    base = m * num_runs
                    gather_codes(site_codes, site_columns, runs[0], 0, num_runs, shared, m, gathered, 0)
                    gather_codes(codes, columns, split_rows, low, high - low, own, q, gathered, base)
                else:
                    gather_codes(codes, columns, split_rows, low, high - low, drawn, number, gathered, 0)
                find_split(
                    is_causal, moments, split_rows, low, high - low, gathered, drawn, number, num_shared, runs,
                    num_runs, base, has_missing, values, work, node, min_count, alpha, best,
                )  # fmt: skip
            if best[2] < 0:
                sum_rows(moments, estimation_rows, first, last, total)
                for j in range(5):
                    means[num_leaves, j] = total[0, j] / total[0, UNITS]
                nodes[k, 0], nodes[k, 1] = LEAF, num_leaves
                num_leaves += 1
                break
            f, cut, missing_left = np.int64(best[2]), np.int64(best[3]), best[4] != 0
            seen = False
            if has_missing[f]:
                for i in range(low, high):
                    seen |= columns[f, split_rows[i]] == 255
            middle = _partition(split_rows, low, high, spare, columns, f, cut, missing_left)
            if not seen:  # a missing value in new data goes with the larger child
                units_left = 0.0
                for i in range(low, middle):
                    units_left += moments[split_rows[i], UNITS]
                missing_left = 2.0 * units_left > node[0, UNITS]
            halfway = _partition(estimation_rows, first, last, spare, columns, f, cut, missing_left)
            left_seed, right_seed = derive(here, 1), derive(here, 2)
            if halfway == first:
                low, here = middle, right_seed
            elif halfway == last:
                high, here = middle, left_seed
            else:
                nodes[k, 0], nodes[k, 1], cuts[k, 0], cuts[k, 1] = (
                    f,
                    num_nodes,
                    cut,
                    missing_left,
                )
                for side in range(2):
                    stack[depth, 0] = num_nodes + side
                    stack[depth, 1], stack[depth, 2] = (middle, high) if side else (low, middle)
                    stack[depth, 3], stack[depth, 4] = (halfway, last) if side else (first, halfway)
                    seeds[depth] = right_seed if side else left_seed
                    depth += 1
                num_nodes += 2
                break
    return num_nodes, num_leaves


@kernel
def _make_scratch(num_rows: Any, num_runs: Any, p: Any, most_drawn: Any) -> Any:
    """Working memory of one thread, for nodes of up to ``num_rows`` rows of up to ``num_runs`` sites."""
    return (
        np.arange(p),
        np.empty(p, np.int64),
        np.empty(p, np.int64),
        np.zeros(p, np.bool_),
        np.empty(p),
        np.empty(most_drawn * num_rows + LANES, np.uint8),
        np.zeros((num_rows + num_runs, NUM_VALUES)),
        (
            np.zeros(4, np.uint64),
            np.empty(LANES, np.uint64),
            np.zeros((_CODES, NUM_VALUES)),
            np.empty((2, _CODES)),
            np.empty(_CODES + 1, np.int64),
        ),
        np.empty(num_rows, np.uint32),
        np.empty((num_rows + 2, 5), np.int64),
        np.empty(num_rows + 2, np.uint64),
        np.zeros((1, WIDTH)),
        np.zeros((1, WIDTH)),
        np.zeros(5),
        np.zeros(1, np.uint64),
        np.empty(p, np.int64),
        np.empty(p, np.int64),
        (
            np.empty(num_runs, np.uint32),
            np.arange(num_runs).astype(np.uint32),
            np.empty((num_runs, WIDTH)),
        ),
    )


@kernel
def grow_bags(
    data: Any,
    rules: Any,
    draws: Any,
    num_groups: Any,
    bags: Any,
    most_rows: Any,
    most_leaves: Any,
) -> Any:
    """Two trees for each bag: membership (bags, G), nodes, codes of cuts, leaf means, counts per tree (trees, 2)."""
    seed, active, start, bag_size, split_size = draws
    p, most_drawn = data[0].shape[1], len(rules[1])
    scratch = _make_scratch(most_rows, len(data[6]), p, most_drawn)
    split_rows, estimation_rows = (
        np.empty(most_rows, np.uint32),
        np.empty(most_rows, np.uint32),
    )
    num_trees = 2 * len(bags)
    in_bag = np.zeros((len(bags), num_groups), np.bool_)
    nodes = np.empty((num_trees * 2 * most_leaves, 2), np.int32)
    cuts = np.zeros((num_trees * 2 * most_leaves, 2), np.uint8)
    means, counts = (
        np.empty((num_trees * most_leaves, 5)),
        np.empty((num_trees, 2), np.int64),
    )
    node_end, leaf_end = 0, 0
    for i in range(len(bags)):
        bag = draw_bag(seed, bags[i], active, bag_size)
        for g in bag:
            in_bag[i, g] = True
        for t in range(2):
            tree_seed = derive(derive(seed, bags[i]), t + 1)
            halves = draw_halves(tree_seed, bag, split_size, start, split_rows, estimation_rows)
            counts[2 * i + t] = _grow_tree(
                data, rules, scratch, tree_seed, split_rows, halves[0], estimation_rows, halves[1],
                nodes[node_end:], cuts[node_end:], means[leaf_end:],
            )  # fmt: skip
            node_end += counts[2 * i + t, 0]
            leaf_end += counts[2 * i + t, 1]
    return (
        in_bag,
        nodes[:node_end].copy(),
        cuts[:node_end].copy(),
        means[:leaf_end].copy(),
        counts,
    )


@kernel
def walk(nodes: Any, cuts: Any, codes: Any, row: Any) -> Any:
    """Leaf of a row in one tree."""
    k = 0
    while nodes[k, 0] != LEAF:
        c = codes[row, nodes[k, 0]]
        left = cuts[k, 1] != 0 if c == 255 else c <= cuts[k, 0]
        k = nodes[k, 1] + (0 if left else 1)
    return nodes[k, 1]


@kernel
def leave_out_sums(
    data: Any,
    rules: Any,
    draws: Any,
    num_groups: Any,
    bags: Any,
    most_rows: Any,
    most_leaves: Any,
    u: Any,
) -> Any:
    """Out-of-bag sums over the trees of these bags of (omega, omega u) leaf means, (rows, B, 2), and trees (rows,).

    Every column of ``u`` sees the same bags, halves and seeds. ``data[2]`` is changed: its outcomes are those of the
    column at work.
    """
    seed, active, start, bag_size, split_size = draws
    codes, moments = data[0], data[2]
    scratch = _make_scratch(most_rows, len(data[6]), codes.shape[1], len(rules[1]))
    split_rows, estimation_rows = (
        np.empty(most_rows, np.uint32),
        np.empty(most_rows, np.uint32),
    )
    split_again, estimation_again = (
        np.empty(most_rows, np.uint32),
        np.empty(most_rows, np.uint32),
    )
    nodes, cuts = (
        np.empty((2 * most_leaves, 2), np.int32),
        np.zeros((2 * most_leaves, 2), np.uint8),
    )
    means = np.empty((most_leaves, 5))
    num_columns = u.shape[1]
    sums, trees = np.zeros((len(u), num_columns, 2)), np.zeros(len(u), np.int64)
    outside = np.empty(len(u), np.int64)
    in_bag = np.zeros(num_groups, np.bool_)
    for i in range(len(bags)):
        bag = draw_bag(seed, bags[i], active, bag_size)
        in_bag[:] = False
        for g in bag:
            in_bag[g] = True
        num_outside = 0
        for g in range(num_groups):
            for r in range(start[g], start[g + 1]):
                if not in_bag[g]:
                    outside[num_outside] = r
                    num_outside += 1
                    trees[r] += 2
        for t in range(2):
            tree_seed = derive(derive(seed, bags[i]), t + 1)
            m, q = draw_halves(tree_seed, bag, split_size, start, split_rows, estimation_rows)
            for b in range(num_columns):
                split_again[:m], estimation_again[:q] = (
                    split_rows[:m],
                    estimation_rows[:q],
                )
                for k in range(m):
                    moments[split_rows[k], Y_SUM] = moments[split_rows[k], OMEGA] * u[split_rows[k], b]
                for k in range(q):
                    moments[estimation_rows[k], Y_SUM] = moments[estimation_rows[k], OMEGA] * u[estimation_rows[k], b]
                _grow_tree(
                    data, rules, scratch, tree_seed, split_again, m, estimation_again, q, nodes, cuts, means
                )  # fmt: skip
                for k in range(num_outside):
                    r = outside[k]
                    leaf = walk(nodes, cuts, codes, r)
                    sums[r, b, 0] += means[leaf, OMEGA]
                    sums[r, b, 1] += means[leaf, Y_SUM]
    return sums, trees
