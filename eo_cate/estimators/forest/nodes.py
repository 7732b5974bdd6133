"""A node's rows: their sums, gradient scores and codes, by row or by site."""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_cate.estimators.forest.jit import add_moments, add_values, bare

OMEGA, Y_SUM, W_SUM, WY_SUM, WW_SUM, COUNT_A, COUNT_B, UNITS = range(8)
RHO, WEIGHT, A, B = range(4)


@bare
def sum_rows(moments: Any, rows: Any, low: Any, high: Any, total: Any) -> None:
    """Moments of a node, total[0, :]."""
    total[:] = 0.0
    for i in range(low, high):
        add_moments(total, 0, moments, rows[i])


@bare
def can_part(moments: Any, rows: Any, low: Any, high: Any, node: Any, min_count: Any) -> Any:
    """Whether two children could keep both counts: a row goes as a whole, so one has at most all but the largest.

    With W by village 45 % of the nodes that have enough of both fail, and need no scan (300 sites of ten units).
    """
    least = min(node[0, COUNT_A], node[0, COUNT_B])
    if least < 2 * min_count:
        return False
    if least - (node[0, UNITS] - (high - low - 1)) >= min_count:  # as each of the other rows has a unit
        return True
    most_a = most_b = 0.0
    for i in range(low, high):
        r = rows[i]
        most_a, most_b = max(most_a, moments[r, COUNT_A]), max(most_b, moments[r, COUNT_B])
    return node[0, COUNT_A] - most_a >= min_count and node[0, COUNT_B] - most_b >= min_count


@bare
def causal_values(moments: Any, rows: Any, low: Any, high: Any, node: Any, values: Any) -> Any:
    """Per row (rho, omega, a, b): rho is the gradient score of the node's tau; False where W does not vary."""
    omega, Y, W = node[0, OMEGA], node[0, Y_SUM], node[0, W_SUM]
    Y_bar, W_bar = Y / omega, W / omega
    spread = node[0, WW_SUM] - W * W_bar
    if spread <= 1e-10 * node[0, WW_SUM]:
        return False
    tau = (node[0, WY_SUM] - W * Y_bar) / spread
    for i in range(high - low):
        r = rows[low + i]
        o, y, w = moments[r, OMEGA], moments[r, Y_SUM], moments[r, W_SUM]
        numerator = moments[r, WY_SUM] - W_bar * y - Y_bar * w + o * W_bar * Y_bar
        denominator = moments[r, WW_SUM] - 2.0 * W_bar * w + o * W_bar * W_bar
        values[i, RHO], values[i, WEIGHT] = numerator - tau * denominator, o
        values[i, A], values[i, B] = moments[r, COUNT_A], moments[r, COUNT_B]
    return True


@bare
def regression_values(moments: Any, rows: Any, low: Any, high: Any, node: Any, values: Any) -> None:
    """Per row (rho, omega, a, a): rho is the residual at the node's mean."""
    Y_bar = node[0, Y_SUM] / node[0, OMEGA]
    for i in range(high - low):
        r = rows[low + i]
        values[i, RHO] = moments[r, Y_SUM] - Y_bar * moments[r, OMEGA]
        values[i, WEIGHT] = moments[r, OMEGA]
        values[i, A] = values[i, B] = moments[r, COUNT_A]


@bare
def sum_sites(sites: Any, moments: Any, values: Any, rows: Any, low: Any, high: Any, runs: Any) -> Any:
    """Sums of the node's rows over each of its sites, whose rows follow each other; returns the number of sites.

    Those of ``values`` go to its end.
    """
    run_sites, _, run_moments = runs
    number, offset = 0, len(values) - len(run_sites)
    for i in range(high - low):
        r = rows[low + i]
        if number == 0 or sites[r] != run_sites[number - 1]:
            run_sites[number] = sites[r]
            run_moments[number] = 0.0
            values[offset + number] = 0.0
            number += 1
        add_moments(run_moments, number - 1, moments, r)
        add_values(values, offset + number - 1, values, i)
    return number


@bare
def divide_features(drawn: Any, number: Any, num_shared: Any, shared: Any, own: Any) -> Any:
    """Drawn features that a site shares, and those that units have of their own, in their order; counts of both."""
    m = k = 0
    for j in range(number):
        if drawn[j] < num_shared:
            shared[m] = drawn[j]
            m += 1
        else:
            own[k] = drawn[j]
            k += 1
    return m, k


@bare
def gather_codes(
    codes: Any,
    columns: Any,
    rows: Any,
    low: Any,
    size: Any,
    drawn: Any,
    number: Any,
    out: Any,
    base: Any,
) -> None:
    """Codes of the drawn features at the node's rows, out[base + k * size + i], read along whichever side is nearer."""
    num_rows, p = codes.shape
    begin, length = np.uint64(low), np.uint64(size)  # unsigned: an index that may be negative costs as much as the read
    if number * min(size, num_rows // 64 + 1) <= size * min(number, p // 64 + 1):
        for k in range(number):
            f, to = np.uint64(drawn[k]), np.uint64(base + k * size)
            for i in range(length):
                out[to + i] = columns[f, rows[begin + i]]
    else:
        for i in range(length):
            r, to = rows[begin + i], np.uint64(base) + i
            for k in range(np.uint64(number)):
                out[to + k * length] = codes[r, np.uint64(drawn[k])]
