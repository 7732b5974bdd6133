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
from eo_cate.estimators.forest.jit import BLOCK, LANES, NUM_VALUES, WIDTH, bare, kernel
from eo_cate.estimators.forest.nodes import (
    OMEGA,
    UNITS,
    Y_SUM,
    can_part,
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


@bare
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


@bare
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
            can_split = can_part(moments, split_rows, low, high, node, min_count)
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
        np.empty(most_drawn * num_rows + 2 * LANES, np.uint8),
        np.zeros((num_rows + num_runs, NUM_VALUES)),
        (
            np.zeros(4, np.uint64),
            np.zeros(_CODES + LANES, np.uint8),
            np.zeros((_CODES + BLOCK, NUM_VALUES)),
            np.zeros((_CODES, NUM_VALUES)),
            np.zeros((_CODES + BLOCK, NUM_VALUES)),
            np.empty((1, NUM_VALUES)),
            np.zeros(4, np.uint64),
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


@bare
def walk(nodes: Any, cuts: Any, codes: Any, row: Any) -> Any:
    """Leaf of a row in one tree."""
    k = 0
    while nodes[k, 0] != LEAF:
        c = codes[row, nodes[k, 0]]
        left = cuts[k, 1] != 0 if c == 255 else c <= cuts[k, 0]
        k = nodes[k, 1] + (0 if left else 1)
    return nodes[k, 1]


@kernel
def refit_sums(
    data: Any,
    rules: Any,
    draws: Any,
    group: Any,
    num_groups: Any,
    num_bags: Any,
    most_rows: Any,
    most_leaves: Any,
    moments: Any,
    least_scores: Any,
    centres: Any,
    num_sums: Any,
) -> Any:
    """Out-of-bag sums of leaf means over the trees, in their order, (rows, B, num_sums), and bags that answer (rows,).

    Each of the B refits has its own ``moments`` (B, rows, 8) and least score, in place of those of ``data`` and
    ``rules``, and the number that its outcomes were centred at; bags, halves and seeds are the same for all.
    """
    seed, active, start, bag_size, split_size = draws
    codes, columns, _, has_missing, sites, num_shared, site_codes, site_columns = data
    is_causal, number_cdf, cumulative, min_count, alpha, _ = rules
    scratch = _make_scratch(most_rows, len(site_codes), codes.shape[1], len(number_cdf))
    split_rows, estimation_rows = np.empty(most_rows, np.uint32), np.empty(most_rows, np.uint32)
    split_again, estimation_again = np.empty(most_rows, np.uint32), np.empty(most_rows, np.uint32)
    nodes, cuts = np.empty((2 * most_leaves, 2), np.int32), np.zeros((2 * most_leaves, 2), np.uint8)
    means = np.empty((most_leaves, 5))
    sums, answers = np.zeros((len(group), len(moments), num_sums)), np.zeros(len(group), np.int64)
    outside = np.empty(len(group), np.int64)
    in_bag = np.zeros(num_groups, np.bool_)
    for i in range(num_bags):
        bag = draw_bag(seed, i, active, bag_size)
        in_bag[:] = False
        for g in bag:
            in_bag[g] = True
        num_outside = 0
        for r in range(len(group)):
            if not in_bag[group[r]]:
                outside[num_outside] = r
                num_outside += 1
                answers[r] += 1
        for t in range(2):
            tree_seed = derive(derive(seed, i), t + 1)
            m, q = draw_halves(tree_seed, bag, split_size, start, split_rows, estimation_rows)
            for b in range(len(moments)):
                split_again[:m], estimation_again[:q] = split_rows[:m], estimation_rows[:q]
                _, num_leaves = _grow_tree(
                    (codes, columns, moments[b], has_missing, sites, num_shared, site_codes, site_columns),
                    (is_causal, number_cdf, cumulative, min_count, alpha, least_scores[b]),
                    scratch, tree_seed, split_again, m, estimation_again, q, nodes, cuts, means,
                )  # fmt: skip
                for leaf in range(num_leaves):
                    means[leaf, Y_SUM] += centres[b] * means[leaf, OMEGA]
                for k in range(num_outside):
                    r = outside[k]
                    leaf = walk(nodes, cuts, codes, r)
                    for j in range(num_sums):
                        sums[r, b, j] += means[leaf, j]
    return sums, answers
