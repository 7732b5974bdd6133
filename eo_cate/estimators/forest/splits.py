"""The best split of a node: candidate cuts of the drawn features and their scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_cate.estimators.forest.jit import (
    BLOCK,
    LANES,
    NUM_VALUES,
    add_values,
    bare,
    bits_below,
    bits_equal,
    copy_values,
    count_ones,
    inner,
    neighbours_differ,
    scan_rows,
    trailing_zeros,
)
from eo_cate.estimators.forest.nodes import COUNT_A, COUNT_B, OMEGA, RHO, W_SUM, WEIGHT, WW_SUM

MISSING = 255
SLACK = 1e-5
_ONE = np.uint64(1)


@inner
def _rank_rows(gathered: Any, first: Any, size: Any, values: Any, offset: Any, ordered: Any, codes: Any) -> None:
    """Rows of up to 64 by code, stable, without a branch: a row's place is the number of codes that come before it."""
    every = ~np.uint64(0) >> np.uint64(LANES - size)
    for i in range(np.uint64(size)):
        c = gathered[np.uint64(first) + i]
        before = bits_equal(gathered, first, c) & ((_ONE << i) - _ONE)
        place = count_ones((bits_below(gathered, first, c) & every) | before)
        copy_values(ordered, place, values, np.uint64(offset) + i)
        codes[place] = c


@inner
def _rank_twice(gathered: Any, first: Any, size: Any, values: Any, offset: Any, ordered: Any, codes: Any) -> None:
    """As `_rank_rows` for 65 to 128 rows, in two words."""
    lanes, every = np.uint64(LANES), ~np.uint64(0) >> np.uint64(2 * LANES - size)
    low, high = np.uint64(first), np.uint64(first) + lanes
    for i in range(np.uint64(size)):
        c = gathered[low + i]
        in_low, in_high = bits_below(gathered, low, c), bits_below(gathered, high, c)
        if i < lanes:
            in_low |= bits_equal(gathered, low, c) & ((_ONE << i) - _ONE)
        else:
            in_low |= bits_equal(gathered, low, c)
            in_high |= bits_equal(gathered, high, c) & ((_ONE << (i - lanes)) - _ONE)
        place = count_ones(in_low) + count_ones(in_high & every)
        copy_values(ordered, place, values, np.uint64(offset) + i)
        codes[place] = c


@bare
def _fill_bins(gathered: Any, first: Any, size: Any, values: Any, offset: Any, bits: Any, bins: Any) -> None:
    bits[:] = 0
    for i in range(np.uint64(size)):
        c = gathered[np.uint64(first) + i]
        add_values(bins, c, values, np.uint64(offset) + i)
        bits[c >> 6] |= _ONE << np.uint64(c & 63)


@inner
def _list_bins(bins: Any, bits: Any, ordered: Any, codes: Any) -> Any:
    """Values of the codes that occur, ascending, and how many they are."""
    k = np.uint64(0)
    for word in range(4):
        left = bits[word]
        while left != 0:
            c = np.uint64(64 * word) + trailing_zeros(left)
            left &= left - _ONE
            copy_values(ordered, k, bins, c)
            codes[k] = c
            k += _ONE
    return np.int64(k)


@bare
def _clear_bins(bins: Any, bits: Any) -> None:
    for word in range(4):
        left = bits[word]
        while left != 0:
            c = np.uint64(64 * word) + trailing_zeros(left)
            left &= left - _ONE
            for j in range(NUM_VALUES):
                bins[c, j] = 0.0


@inner
def _scan_cuts(
    ordered: Any, number: Any, gap: Any, missing_left: Any, node: Any, least: Any, best: Any, carry: Any, sums: Any,
    found: Any,
) -> Any:  # fmt: skip
    """Sums of the values up to each of ``number`` places; returns the number of cuts, 0 when none beats ``best``.

    The cuts that beat it and keep the counts are the bits of ``found``, four words. The last ``gap`` places are
    missing; with ``missing_left`` they come before the first.
    """
    for j in range(NUM_VALUES):
        carry[0, j] = 0.0
    if missing_left:
        number -= gap
        for k in range(number, number + gap):
            for j in range(NUM_VALUES):
                carry[0, j] += ordered[k, j]
    any_found, bar = np.uint64(0), best[0] * (1.0 + SLACK)
    for word in range((number - 1 + LANES - 1) // LANES):
        bits = np.uint64(0)
        cuts = min(number - 1 - LANES * word, LANES)
        for block in range((cuts + BLOCK - 1) // BLOCK):
            k = LANES * word + BLOCK * block
            bits |= scan_rows(
                carry, 0, ordered, k, sums, k, node[0, OMEGA], bar, best[1], least, node[0, COUNT_A], node[0, COUNT_B]
            ) << np.uint64(BLOCK * block)
        found[word] = bits & (~np.uint64(0) >> np.uint64(LANES - cuts))
        any_found |= found[word]
    return number - 1 if any_found else 0


@bare
def _best_place(sums: Any, candidates: Any, number: Any, total: Any, best: Any) -> Any:
    """Place of the last candidate that beats all before it, and ``best``; -1 when none does."""
    top, bottom, found = best[0], best[1], np.int64(-1)
    for word in range((number + LANES - 1) // LANES):
        left = candidates[word]
        while left != 0:
            k = np.uint64(LANES * word) + trailing_zeros(left)
            left &= left - _ONE
            weight = sums[k, WEIGHT]
            square, denominator = sums[k, RHO] * sums[k, RHO], weight * (total - weight)
            if square * bottom > top * (1.0 + SLACK) * denominator:
                top, bottom, found = square, denominator, np.int64(k)
    return found


@bare
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


@bare
def goes_left(code: Any, cut: Any, missing_left: Any) -> Any:
    """Where a code goes at a node; cuts lie below the code of missing."""
    return (code <= cut) | (missing_left & (code == MISSING))


@bare
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


@bare
def _best_kept(
    gathered: Any,
    first: Any,
    size: Any,
    codes: Any,
    missing_left: Any,
    moments: Any,
    rows: Any,
    low: Any,
    node: Any,
    alpha: Any,
    is_shared: Any,
    runs: Any,
    sums: Any,
    candidates: Any,
    number: Any,
    best: Any,
) -> Any:
    """As `_best_place`, among the candidates that keep the variation of W."""
    top, bottom, found = best[0], best[1], np.int64(-1)
    for word in range((number + LANES - 1) // LANES):
        left = candidates[word]
        while left != 0:
            k = np.uint64(LANES * word) + trailing_zeros(left)
            left &= left - _ONE
            weight = sums[k, WEIGHT]
            square, denominator = sums[k, RHO] * sums[k, RHO], weight * (node[0, OMEGA] - weight)
            if square * bottom > top * (1.0 + SLACK) * denominator and _keeps(
                gathered, first, size, codes[k], missing_left, moments, rows, low, node, alpha, is_shared, runs
            ):
                top, bottom, found = square, denominator, np.int64(k)
    return found


@bare
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
    a cut is (sum rho of the left)^2 / (weight left x weight right). Up to 128 rows are ranked, more are added up per
    code; ``bins`` is all zero before and after. Which arrays to scan is chosen by an offset: numba would count
    references at every choice between arrays, and that costs as much as the scan.
    """
    least = min_count if is_causal else max(min_count, alpha * (1.0 - SLACK) * node[0, COUNT_A])
    bits, codes, ordered, bins, sums, carry, candidates = work
    total, shared_offset = node[0, OMEGA], len(values) - len(runs[0])
    first_shared, first_own = 0, base
    for j in range(number):
        feature = drawn[j]
        is_shared = feature < num_shared
        if is_shared:
            first, length, offset = first_shared, num_runs, shared_offset
            first_shared += num_runs
        else:
            first, length, offset = first_own, size, 0
            first_own += size
        is_ranked, places = length <= 2 * LANES, length
        if length <= LANES:
            _rank_rows(gathered, first, length, values, offset, ordered, codes)
        elif is_ranked:
            _rank_twice(gathered, first, length, values, offset, ordered, codes)
        else:
            _fill_bins(gathered, first, length, values, offset, bits, bins)
            places = _list_bins(bins, bits, ordered, codes)
            _clear_bins(bins, bits)
        gap: Any = 0
        if has_missing[feature]:
            for k in range(places):
                gap += codes[k] == MISSING
        for side in range(2 if gap else 1):
            missing_left = side == 1
            cuts = _scan_cuts(ordered, places, gap, missing_left, node, least, best, carry, sums, candidates)
            if cuts < 1:
                continue
            if is_ranked:
                for word in range((cuts + LANES - 1) // LANES):
                    candidates[word] &= neighbours_differ(codes, LANES * word)
            cut = _best_place(sums, candidates, cuts, total, best)
            if (
                cut >= 0
                and is_causal
                and not _keeps(
                    gathered, first, length, codes[cut], missing_left, moments, rows, low, node, alpha, is_shared, runs
                )
            ):
                cut = _best_kept(
                    gathered, first, length, codes, missing_left, moments, rows, low, node, alpha, is_shared, runs,
                    sums, candidates, cuts, best,
                )  # fmt: skip
            if cut >= 0:
                best[0], best[1] = sums[cut, RHO] * sums[cut, RHO], sums[cut, WEIGHT] * (total - sums[cut, WEIGHT])
                best[2], best[3], best[4] = feature, codes[cut], missing_left
