"""RATE and TOC on many half-samples at once: one linear pass over the units in rank order (METHODS.md, section 2).

A half-sample is the whole sample with some weights set to zero, so the order is made once. Eight replicates go through
a pass side by side: what is added up per replicate lies in arrays of that length, which LLVM turns into vector
registers. No sum ever runs across replicates, so a figure depends neither on its neighbours nor on their number.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eo_cate.types import BoolArray, FloatArray

LANES = 8


def replicate_statistics(
    scores: FloatArray,
    weights: FloatArray,
    codes: NDArray[np.int32],
    run_ends: BoolArray,
    members: BoolArray,
    *,
    shares: FloatArray,
    is_autoc: bool,
) -> FloatArray:
    """RATE and TOC(q) of each row of ``members``: units outside it weigh 0, the order stays.

    Parameters
    ----------
    scores, weights : (n,) float64
        In rank order; centred scores keep the figures exact.
    codes : (n,) int32
        Group 0..G-1 of each unit, in rank order.
    run_ends : (n,) bool
        Whether a unit is the last of its tied run; True at the end.
    members : (R, G) bool
        Whether a group is in a replicate; some weight in each.
    shares : (Q,) float64
        q in (0, 1].
    is_autoc : bool
        AUTOC, else QINI.

    Returns
    -------
    (R, 1 + Q) float64, [RATE, TOC(q)...].
    """
    ascending = np.argsort(shares, kind="stable")
    group_weights = np.bincount(codes, weights=weights, minlength=members.shape[1])
    result = np.empty((len(members), 1 + len(shares)))
    for start in range(0, len(members), LANES):
        block = members[start : start + LANES]
        lanes = np.zeros((members.shape[1], LANES), dtype=np.bool_)
        lanes[:, : len(block)] = block.T
        treated = np.outer(shares[ascending], _total_weights(group_weights, lanes))
        # Never reached, so that TOC(1) is 0 whatever the rounding of the total.
        treated[shares[ascending] == 1.0] = np.inf
        statistics = _pass_units(scores, weights, codes, run_ends, lanes, treated, is_autoc)
        result[start : start + LANES, 0] = statistics[0, : len(block)]
        result[start : start + LANES, 1 + ascending] = statistics[1:, : len(block)].T
    return result


@njit(nogil=True, cache=True, error_model="numpy")
def _total_weights(group_weights, lanes):  # type: ignore[no-untyped-def]
    total = np.zeros(LANES)
    for group in range(len(group_weights)):
        for lane in range(LANES):
            total[lane] += group_weights[group] if lanes[group, lane] else 0.0
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _pass_units(scores, weights, codes, run_ends, lanes, treated, is_autoc):  # type: ignore[no-untyped-def]
    """[RATE, TOC(q)...] of each lane, shape (1 + Q, LANES); ``treated`` (Q, LANES) are weights, ascending.

    Before a tied run the cumulated weight is w0 and the cumulated gain g0; its units share the mean m, so after a unit
    the gain is g0 + m (w - w0) = base + m w. AUTOC adds omega (base + m w) / w over units, QINI omega (base + m w):
    with ``moment`` = sum of omega / w (omega w for QINI) a run is closed without a second look at its units.
    """
    statistics = np.zeros((1 + len(treated), LANES))
    weight, gain, area, mass = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    run_weight, run_gain, moment = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    passed, upcoming = np.zeros(LANES, dtype=np.int64), np.full(LANES, np.inf)
    _record_shares(statistics, treated, passed, upcoming, weight, gain, run_weight, run_gain)
    for i in range(len(scores)):
        omega, score, member = weights[i], scores[i], lanes[codes[i]]
        for lane in range(LANES):
            w = omega if member[lane] else 0.0
            run_weight[lane] += w
            run_gain[lane] += w * score
            cumulated = weight[lane] + run_weight[lane]
            moment[lane] += w / (cumulated if cumulated > 0.0 else 1.0) if is_autoc else w * cumulated
        if run_ends[i]:
            if _reaches(upcoming, weight, run_weight):
                _record_shares(statistics, treated, passed, upcoming, weight, gain, run_weight, run_gain)
            _close_run(area, mass, weight, gain, run_weight, run_gain, moment, is_autoc)
    for lane in range(LANES):
        total = weight[lane] if weight[lane] > 0.0 else 1.0
        mean = gain[lane] / total
        statistics[0, lane] = (area[lane] - mean * mass[lane]) / (total if is_autoc else total * total)
        for share in range(passed[lane]):
            statistics[1 + share, lane] -= mean
    return statistics


@njit(nogil=True, cache=True, error_model="numpy")
def _reaches(upcoming, weight, run_weight):  # type: ignore[no-untyped-def]
    reached = False
    for lane in range(LANES):
        reached |= weight[lane] + run_weight[lane] >= upcoming[lane]
    return reached


@njit(nogil=True, cache=True, error_model="numpy")
def _record_shares(statistics, treated, passed, upcoming, weight, gain, run_weight, run_gain):  # type: ignore[no-untyped-def]
    """Mean score of the shares treated that end within this run (their last unit counts fractionally), and the next."""
    for lane in range(LANES):
        reach = weight[lane] + run_weight[lane]
        while passed[lane] < len(treated) and reach >= treated[passed[lane], lane]:
            share = treated[passed[lane], lane]
            mean = run_gain[lane] / (run_weight[lane] if run_weight[lane] > 0.0 else 1.0)
            passed[lane] += 1
            statistics[passed[lane], lane] = (gain[lane] + mean * (share - weight[lane])) / share
        upcoming[lane] = treated[passed[lane], lane] if passed[lane] < len(treated) else np.inf


@njit(nogil=True, cache=True, error_model="numpy")
def _close_run(area, mass, weight, gain, run_weight, run_gain, moment, is_autoc):  # type: ignore[no-untyped-def]
    for lane in range(LANES):
        mean = run_gain[lane] / (run_weight[lane] if run_weight[lane] > 0.0 else 1.0)
        base = gain[lane] - mean * weight[lane]
        if is_autoc:
            area[lane] += base * moment[lane] + mean * run_weight[lane]
            mass[lane] += run_weight[lane]
        else:
            area[lane] += base * run_weight[lane] + mean * moment[lane]
            mass[lane] += moment[lane]
        weight[lane] += run_weight[lane]
        gain[lane] += run_gain[lane]
        run_weight[lane], run_gain[lane], moment[lane] = 0.0, 0.0, 0.0
