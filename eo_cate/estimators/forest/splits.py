"""The best split of a node: candidate cuts of the drawn features and their scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_cate.estimators.forest.jit import (
    LANES,
    NUM_VALUES,
    add_values,
    bits_below,
    bits_equal,
    count_ones,
    kernel,
    trailing_zeros,
)
from eo_cate.estimators.forest.nodes import COUNT_A, COUNT_B, OMEGA, RHO, W_SUM, WEIGHT, WW_SUM, A, B

MISSING = 255
SLACK = 1e-5
_ONE = np.uint64(1)
_LAST_BIT = np.uint64(63)


@kernel
def _rank_rows(gathered: Any, first: Any, size: Any, order: Any, codes: Any) -> None:
    """Rows of up to 64 by code, stable, without a branch: a row's place is the number of codes that come before it."""
    every = ~np.uint64(0) >> np.uint64(LANES - size)
    for i in range(size):
        c = gathered[first + i]
        before = bits_equal(gathered, first, c) & ((_ONE << np.uint64(i)) - _ONE)
        place = count_ones((bits_below(gathered, first, c) & every) | before)
        order[place] = i
        codes[place] = c


@kernel
def _cumulate_ranked(
    values: Any,
    offset: Any,
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
            i = order[k] + np.uint64(offset)
            rho += values[i, RHO]
            weight += values[i, WEIGHT]
            a += values[i, A]
            b += values[i, B]
    begin = end = 0
    for k in range(last):
        i = order[k] + np.uint64(offset)
        rho += values[i, RHO]
        weight += values[i, WEIGHT]
        a += values[i, A]
        b += values[i, B]
        sums[0, k], sums[1, k] = rho, weight
        begin += (a < least) | (b < least)
        end += (total_a - a >= least) & (total_b - b >= least)
    return begin, end


@kernel
def _fill_bins(gathered: Any, first: Any, size: Any, values: Any, offset: Any, bits: Any, bins: Any) -> None:
    bits[:] = 0
    for i in range(size):
        c = gathered[first + i]
        add_values(bins, c, values, offset + i)
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
            bins[MISSING, RHO],
            bins[MISSING, WEIGHT],
            bins[MISSING, A],
            bins[MISSING, B],
        )
    k = begin = end = 0
    for word in range(4):
        left = bits[word]
        if missing_left and word == 3:
            left &= ~(_ONE << _LAST_BIT)
        while left != 0:
            c = np.uint64(64 * word) + trailing_zeros(left)
            left &= left - _ONE
            rho += bins[c, RHO]
            weight += bins[c, WEIGHT]
            a += bins[c, A]
            b += bins[c, B]
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
    """Candidates, between different codes, whose score beats the bar.

    Without branches and with unsigned indices, which cannot be negative: only so is it compiled to vectors.
    """
    number: Any = 0
    for k in range(np.uint64(begin), np.uint64(end)):
        weight = sums[1, k]
        beats = sums[0, k] * sums[0, k] * denominator > bar * weight * (total - weight)
        number += np.int64(beats & (codes[k] != codes[k + _ONE]))
    return number


@kernel
def _best_place(sums: Any, codes: Any, begin: Any, end: Any, total: Any, best: Any) -> Any:
    """Place of the last candidate that beats all before it, and ``best``; some candidate does."""
    top, bottom, found = best[0], best[1], np.int64(-1)
    for k in range(np.uint64(begin), np.uint64(end)):
        weight = sums[1, k]
        square, denominator = sums[0, k] * sums[0, k], weight * (total - weight)
        if square * bottom > top * (1.0 + SLACK) * denominator and codes[k] != codes[k + _ONE]:
            top, bottom, found = square, denominator, np.int64(k)
    return found


@kernel
def _beats(sums: Any, codes: Any, k: Any, total: Any, best: Any) -> Any:
    denominator = sums[1, k] * (total - sums[1, k])
    return codes[k] != codes[k + 1] and sums[0, k] * sums[0, k] * best[1] > best[0] * (1.0 + SLACK) * denominator


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
def _keeps(
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
    is_shared: Any,
    runs: Any,
) -> Any:
    if is_shared:
        return _keeps_variation(gathered, first, size, cut, missing_left, runs[2], runs[1], 0, node, alpha)
    return _keeps_variation(gathered, first, size, cut, missing_left, moments, rows, low, node, alpha)


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
    num_shared: Any,
    runs: Any,
    num_runs: Any,
    base: Any,
    has_missing: Any,
    values: Any,
    work: Any,
    node: Any,
    min_count: Any,
    alpha: Any,
    best: Any,
) -> None:
    """Best (score's numerator, denominator, feature, code, missing left) of the drawn features, better than ``best``.

    Features below ``num_shared`` are scanned over the node's sites (`sum_sites`), the others over its rows; codes of
    the former are gathered from 0 on, of the latter from ``base`` on. With rho summing to 0 over the node, the score of
    a cut is (sum rho of the left)^2 / (weight left x weight right). Up to 64 rows are ranked, more are added up per
    code; ``bins`` is all zero before and after. Which arrays to scan is chosen by an offset: numba would count
    references at every choice between arrays, and that costs as much as the scan.
    """
    least = min_count if is_causal else max(min_count, alpha * (1.0 - SLACK) * node[0, COUNT_A])
    bits, order, bins, sums, codes = work
    total = node[0, OMEGA]
    first_shared, first_own = 0, base
    for j in range(number):
        feature = drawn[j]
        is_shared = feature < num_shared
        if is_shared:
            first, length, offset = first_shared, num_runs, len(values) - len(runs[0])
            first_shared += num_runs
        else:
            first, length, offset = first_own, size, 0
            first_own += size
        is_small = length <= LANES
        gap: Any = 0
        if is_small:
            _rank_rows(gathered, first, length, order, codes)
            if has_missing[feature]:
                gap = np.int64(np.sum(codes[:length] == MISSING))
        else:
            _fill_bins(gathered, first, length, values, offset, bits, bins)
            gap = np.int64(bits[3] >> _LAST_BIT)
        for side in range(2 if gap else 1):
            missing_left = side == 1
            if is_small:
                begin, end = _cumulate_ranked(values, offset, order, length, gap, missing_left, node, least, sums)
            else:
                begin, end = _cumulate_bins(bins, bits, missing_left, node, least, sums, codes)
            if _count_better(sums, codes, begin, end, total, best[0] * (1.0 + SLACK), best[1]) == 0:
                continue
            cut = _best_place(sums, codes, begin, end, total, best)
            if is_causal and not _keeps(
                gathered, first, length, codes[cut], missing_left, moments, rows, low, node, alpha, is_shared, runs
            ):
                cut = -1
                for k in range(begin, end):
                    if _beats(sums, codes, k, total, best) and _keeps(
                        gathered,
                        first,
                        length,
                        codes[k],
                        missing_left,
                        moments,
                        rows,
                        low,
                        node,
                        alpha,
                        is_shared,
                        runs,
                    ):
                        cut = k
                        best[0], best[1] = sums[0, k] * sums[0, k], sums[1, k] * (total - sums[1, k])
            if cut >= 0:
                best[0], best[1] = sums[0, cut] * sums[0, cut], sums[1, cut] * (total - sums[1, cut])
                best[2], best[3], best[4] = feature, codes[cut], missing_left
        if not is_small:
            _clear_bins(bins, bits)
