"""Random numbers and draws of the engine: each a hash of (seed, bag, tree, node, draw), splitmix64's finaliser."""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_cate.estimators.forest.jit import bare, kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ONE = np.uint64(1)


@bare
def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@bare
def derive(seed: Any, label: Any) -> Any:
    """Seed of a part (a bag, a tree, a node's side) of what ``seed`` stands for."""
    return _mix(seed + (np.uint64(label) + _ONE) * _GOLDEN)


@bare
def _next(state: Any) -> Any:
    state[0] += _GOLDEN
    return _mix(state[0])


@bare
def _below(state: Any, bound: Any) -> Any:
    return np.int64(((_next(state) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@bare
def _uniform(state: Any) -> Any:
    return np.float64(_next(state) >> np.uint64(11)) * 2.0**-53


@bare
def _shuffle_first(state: Any, items: Any, number: Any) -> None:
    """Put a random choice of ``number`` items, in random order, at the start."""
    size = len(items)
    for k in range(number):
        j = k + _below(state, size - k)
        items[k], items[j] = items[j], items[k]


@bare
def draw_number(state: Any, number_cdf: Any) -> Any:
    """How many features a node tries."""
    return min(np.searchsorted(number_cdf, _uniform(state), side="right"), len(number_cdf) - 1) + 1


@bare
def draw_uniform(state: Any, order: Any, swaps: Any, drawn: Any, number: Any) -> Any:
    """Features without replacement; ``order`` is 0..p-1 before and after."""
    p = len(order)
    for k in range(np.uint64(number)):
        j = k + np.uint64(_below(state, p - np.int64(k)))
        swaps[k] = j
        order[k], order[j] = order[j], order[k]
    for k in range(np.uint64(number)):
        drawn[k] = order[k]
    for k in range(np.uint64(number)):
        back = np.uint64(number) - _ONE - k
        j = np.uint64(swaps[back])
        order[back], order[j] = order[j], order[back]
    return number


@bare
def draw_weighted(state: Any, cumulative: Any, marked: Any, keys: Any, drawn: Any, number: Any) -> Any:
    """One feature after the other with probability proportional to its weight among those left.

    Drawing again when a feature is already in is that; after many misses the rest follow by exponential keys.
    """
    p = len(cumulative)
    positive = 0
    for j in range(p):
        if cumulative[j] > (cumulative[j - 1] if j else 0.0):
            positive += 1
    number = min(number, positive)
    found, misses = 0, 0
    while found < number and misses < 8 * number:
        j = min(np.searchsorted(cumulative, _uniform(state) * cumulative[p - 1], side="right"), p - 1)
        if marked[j]:
            misses += 1
        else:
            marked[j] = True
            drawn[found] = j
            found += 1
    if found < number:
        for j in range(p):
            weight = cumulative[j] - (cumulative[j - 1] if j else 0.0)
            keys[j] = np.inf
            if weight > 0 and not marked[j]:
                keys[j] = -np.log(1.0 - _uniform(state)) / weight
        while found < number:
            smallest = np.argmin(keys)
            keys[smallest] = np.inf
            marked[smallest] = True
            drawn[found] = smallest
            found += 1
    for k in range(number):
        marked[drawn[k]] = False
    return number


@kernel
def draw_bag(seed: Any, bag: Any, active: Any, bag_size: Any) -> Any:
    """Groups of a bag; its own stream, so that the trees of the bag cannot move it."""
    state = np.zeros(1, np.uint64)
    state[0] = derive(derive(seed, bag), 0)
    groups = active.copy()
    _shuffle_first(state, groups, bag_size)
    return groups[:bag_size]


@kernel
def draw_halves(tree_seed: Any, bag: Any, split_size: Any, start: Any, split_rows: Any, estimation_rows: Any) -> Any:
    """Rows of the groups that choose the splits and of those that fill the leaves, in the order of rows."""
    state = np.zeros(1, np.uint64)
    state[0] = derive(tree_seed, 0)
    groups = bag.copy()
    _shuffle_first(state, groups, split_size)
    num_groups = len(start) - 1
    half = np.zeros(num_groups, np.uint8)
    for k in range(len(groups)):
        half[groups[k]] = 1 if k < split_size else 2
    num_split, num_estimation = 0, 0
    for g in range(num_groups):
        if half[g] == 1:
            for r in range(start[g], start[g + 1]):
                split_rows[num_split] = r
                num_split += 1
        elif half[g] == 2:
            for r in range(start[g], start[g + 1]):
                estimation_rows[num_estimation] = r
                num_estimation += 1
    return num_split, num_estimation
