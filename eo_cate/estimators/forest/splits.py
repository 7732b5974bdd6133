"""The best split of a node: gradient scores, codes of the drawn features, candidate cuts."""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_cate.estimators.forest.jit import (
    LANES,
    NUM_VALUES,
    add_moments,
    add_values,
    bits_below,
    bits_equal,
    count_ones,
    kernel,
    trailing_zeros,
)

MISSING = 255
SLACK = 1e-5
OMEGA, Y_SUM, W_SUM, WY_SUM, WW_SUM, COUNT_A, COUNT_B, UNITS = range(8)
_RHO, _WEIGHT, _A, _B = range(4)
_ONE = np.uint64(1)
_LAST_BIT = np.uint64(63)


@kernel
def sum_rows(moments: Any, rows: Any, low: Any, high: Any, total: Any) -> None:
    """Moments of a node, total[0, :]."""
    total[:] = 0.0
    for i in range(low, high):
        add_moments(total, 0, moments, rows[i])


@kernel
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
        values[i, _RHO], values[i, _WEIGHT] = numerator - tau * denominator, o
        values[i, _A], values[i, _B] = moments[r, COUNT_A], moments[r, COUNT_B]
    return True


@kernel
def regression_values(moments: Any, rows: Any, low: Any, high: Any, node: Any, values: Any) -> None:
    """Per row (rho, omega, a, a): rho is the residual at the node's mean."""
    Y_bar = node[0, Y_SUM] / node[0, OMEGA]
    for i in range(high - low):
        r = rows[low + i]
        values[i, _RHO] = moments[r, Y_SUM] - Y_bar * moments[r, OMEGA]
        values[i, _WEIGHT] = moments[r, OMEGA]
        values[i, _A] = values[i, _B] = moments[r, COUNT_A]


@kernel
def gather_codes(
    codes: Any,
    columns: Any,
    rows: Any,
    low: Any,
    size: Any,
    drawn: Any,
    number: Any,
    out: Any,
) -> None:
    """Codes of the drawn features at the node's rows, out[k * size + i], read along whichever side is nearer."""
    num_rows, p = codes.shape
    if number * min(size, num_rows // 64 + 1) <= size * min(number, p // 64 + 1):
        for k in range(number):
            f = drawn[k]
            for i in range(size):
                out[k * size + i] = columns[f, rows[low + i]]
    else:
        for i in range(size):
            r = rows[low + i]
            for k in range(number):
                out[k * size + i] = codes[r, drawn[k]]


@kernel
def _rank_rows(gathered: Any, first: Any, size: Any, order: Any, codes: Any) -> None:
    """Rows of up to 64 by code, stable, without a branch: a row's place is the number of codes that come before it."""
    every = ~np.uint64(0) >> np.uint64(LANES - size)
    for i in range(size):
        c = gathered[first + i]
        before = bits_equal(gathered, first, c) & ((_ONE << np.uint64(i)) - _ONE)
        place = count_ones(bits_below(gathered, first, c) & every) + count_ones(before)
        order[place] = i
        codes[place] = c


@kernel
def _cumulate_ranked(
    values: Any,
    order: Any,
    size: Any,
    gap: Any,
    missing_left: Any,
    node: Any,
    least: Any,
    sums: Any,
) -> Any:
    """Cumulated (rho, weight) after each row in order; returns the range of places that keep the counts.

    ``gap`` rows are missing, and come last; with ``missing_left`` they are added before the first.
    """
    total_a, total_b = node[0, COUNT_A], node[0, COUNT_B]
    rho = weight = a = b = 0.0
    last = size - 1
    if missing_left:
        last -= gap
        for k in range(size - gap, size):
            i = order[k]
            rho += values[i, _RHO]
            weight += values[i, _WEIGHT]
            a += values[i, _A]
            b += values[i, _B]
    begin = end = 0
    for k in range(last):
        i = order[k]
        rho += values[i, _RHO]
        weight += values[i, _WEIGHT]
        a += values[i, _A]
        b += values[i, _B]
        sums[0, k], sums[1, k] = rho, weight
        begin += (a < least) | (b < least)
        end += (total_a - a >= least) & (total_b - b >= least)
    return begin, end


@kernel
def _fill_bins(gathered: Any, first: Any, size: Any, values: Any, bits: Any, bins: Any) -> None:
    bits[:] = 0
    for i in range(size):
        c = gathered[first + i]
        add_values(bins, c, values, i)
        bits[c >> 6] |= _ONE << np.uint64(c & 63)


@kernel
def _cumulate_bins(
    bins: Any,
    bits: Any,
    missing_left: Any,
    node: Any,
    least: Any,
    sums: Any,
    codes: Any,
) -> Any:
    """Cumulated (rho, weight) after each code that occurs; returns the range of codes that keep the counts."""
    total_a, total_b = node[0, COUNT_A], node[0, COUNT_B]
    rho = weight = a = b = 0.0
    if missing_left:
        rho, weight, a, b = (
            bins[MISSING, _RHO],
            bins[MISSING, _WEIGHT],
            bins[MISSING, _A],
            bins[MISSING, _B],
        )
    k = begin = end = 0
    for word in range(4):
        left = bits[word]
        if missing_left and word == 3:
            left &= ~(_ONE << _LAST_BIT)
        while left != 0:
            c = np.uint64(64 * word) + trailing_zeros(left)
            left &= left - _ONE
            rho += bins[c, _RHO]
            weight += bins[c, _WEIGHT]
            a += bins[c, _A]
            b += bins[c, _B]
            sums[0, k], sums[1, k], codes[k] = rho, weight, c
            begin += (a < least) | (b < least)
            end += (total_a - a >= least) & (total_b - b >= least)
            k += 1
    return begin, end


@kernel
def _clear_bins(bins: Any, bits: Any) -> None:
    for word in range(4):
        left = bits[word]
        while left != 0:
            c = np.uint64(64 * word) + trailing_zeros(left)
            left &= left - _ONE
            for j in range(NUM_VALUES):
                bins[c, j] = 0.0


@kernel
def _count_better(sums: Any, codes: Any, begin: Any, end: Any, total: Any, bar: Any, denominator: Any) -> Any:
    """Candidates, between different codes, whose score beats the bar; without branches, so that it runs in vectors."""
    number: Any = 0
    for k in range(begin, end):
        weight = sums[1, k]
        beats = sums[0, k] * sums[0, k] * denominator > bar * weight * (total - weight)
        number += np.int64(beats & (codes[k] != codes[k + 1]))
    return number


@kernel
def _keeps_variation(
    gathered: Any,
    first: Any,
    size: Any,
    cut: Any,
    missing_left: Any,
    moments: Any,
    rows: Any,
    low: Any,
    node: Any,
    alpha: Any,
) -> Any:
    """Whether either child keeps a share ``alpha`` of the node's variation of W."""
    weight = w = ww = 0.0
    for i in range(size):
        if goes_left(gathered[first + i], cut, missing_left):
            r = rows[low + i]
            weight += moments[r, OMEGA]
            w += moments[r, W_SUM]
            ww += moments[r, WW_SUM]
    need = alpha * (1.0 - SLACK) * (node[0, WW_SUM] - node[0, W_SUM] * node[0, W_SUM] / node[0, OMEGA])
    other, other_w = node[0, OMEGA] - weight, node[0, W_SUM] - w
    return ww - w * w / weight >= need and node[0, WW_SUM] - ww - other_w * other_w / other >= need


@kernel
def goes_left(code: Any, cut: Any, missing_left: Any) -> Any:
    """Where a code goes at a node; cuts lie below the code of missing."""
    return (code <= cut) | (missing_left & (code == MISSING))


@kernel
def find_split(
    is_causal: Any,
    moments: Any,
    rows: Any,
    low: Any,
    size: Any,
    gathered: Any,
    drawn: Any,
    number: Any,
    has_missing: Any,
    values: Any,
    work: Any,
    node: Any,
    min_count: Any,
    alpha: Any,
    best: Any,
) -> None:
    """Best (score's numerator, denominator, feature, code, missing left) of the drawn features, better than ``best``.

    With rho summing to 0 over the node, the score of a cut is (sum rho of the left)^2 / (weight left x weight right).
    Nodes of up to 64 rows rank them, larger ones add them up per code; ``bins`` is all zero before and after.
    """
    bits, order, bins, sums, codes = work
    least = min_count if is_causal else max(min_count, alpha * (1.0 - SLACK) * node[0, COUNT_A])
    total = node[0, OMEGA]
    is_small = size <= LANES
    for j in range(number):
        first = j * size
        gap: Any = 0
        if is_small:
            _rank_rows(gathered, first, size, order, codes)
            if has_missing[drawn[j]]:
                gap = np.int64(np.sum(codes[:size] == MISSING))
        else:
            _fill_bins(gathered, first, size, values, bits, bins)
            gap = np.int64(bits[3] >> _LAST_BIT)
        for side in range(2 if gap else 1):
            missing_left = side == 1
            if is_small:
                begin, end = _cumulate_ranked(values, order, size, gap, missing_left, node, least, sums)
            else:
                begin, end = _cumulate_bins(bins, bits, missing_left, node, least, sums, codes)
            if _count_better(sums, codes, begin, end, total, best[0] * (1.0 + SLACK), best[1]) == 0:
                continue
            for k in range(begin, end):
                square, denominator = (
                    sums[0, k] * sums[0, k],
                    sums[1, k] * (total - sums[1, k]),
                )
                if codes[k] == codes[k + 1] or square * best[1] <= best[0] * (1.0 + SLACK) * denominator:
                    continue
                if not is_causal or _keeps_variation(
                    gathered,
                    first,
                    size,
                    codes[k],
                    missing_left,
                    moments,
                    rows,
                    low,
                    node,
                    alpha,
                ):
                    best[0], best[1] = square, denominator
                    best[2], best[3], best[4] = drawn[j], codes[k], missing_left
        if not is_small:
            _clear_bins(bins, bits)
