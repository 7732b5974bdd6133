"""Averages over sets of blocks by their evidence, and the same averages without a group (METHODS.md, section 8).

A candidate is a set of blocks C and a gamma: V = gamma K_C + diag(1 / w), K_C = sum of the K_s in C, times 2 / |C| when
there are several. With P = V^-1 - V^-1 1 1' V^-1 / (1' V^-1 1), leaving group g out needs no refit:

- its residual is r_g = P_gg^-1 (P u)_g;
- the restricted likelihood of the others has the determinant |V| 1'V^-1 1 |P_gg| (Jacobi's identity for the minors of
  the bordered matrix) and the quadratic form u'P u - (P u)_g' r_g;
- residuals of h in the fit without g come from P - P_.g P_gg^-1 P_g. in place of P.

So leave-out predictions, their weights and their slope are exactly those of a refit on the other groups, with the
scaling of the features and of w kept.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from eo_cate.errors import EvaluationError
from eo_cate.stats.kernel_ridge import KernelRidge, decompose
from eo_cate.types import FloatArray, IntArray

GAMMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MAX_BLOCKS = 6
_CHUNK = 4_000_000
_SMALLEST = np.finfo(np.float64).tiny
_LEAST_SLOPE = 0.5


def choose_subsets(num_blocks: int, *, seed: int = 0) -> list[tuple[int, ...]]:
    """Sets of blocks: all up to 6 blocks; above, each alone, all together, and others drawn, 63 or more in all."""
    if num_blocks <= MAX_BLOCKS:
        sizes = range(1, num_blocks + 1)
        return [subset for size in sizes for subset in itertools.combinations(range(num_blocks), size)]
    rng = np.random.default_rng(seed)
    chosen = dict.fromkeys([*((s,) for s in range(num_blocks)), tuple(range(num_blocks))])
    while len(chosen) < max(2**MAX_BLOCKS - 1, num_blocks + 1):
        subset = tuple(np.flatnonzero(rng.integers(0, 2, num_blocks)).tolist())
        if subset:
            chosen[subset] = None
    return list(chosen)


@dataclass(frozen=True)
class Candidates:
    """A set of blocks with the decomposition of its kernel, which serves every gamma; ``share`` scales each K_s."""

    subset: tuple[int, ...]
    share: float
    system: KernelRidge


def decompose_subsets(kernels: list[FloatArray], weights: FloatArray, *, seed: int = 0) -> list[Candidates]:
    """Decompose the kernel of every subset under row weights (S,), which are brought to mean 1."""
    found = []
    for subset in choose_subsets(len(kernels), seed=seed):
        share = 1.0 if len(subset) == 1 else 2.0 / len(subset)
        K = share * np.sum([kernels[s] for s in subset], axis=0)
        found.append(Candidates(subset, share, decompose(K, weights)))
    return found


@dataclass(frozen=True)
class LeaveOut:
    """One candidate without each group, for B columns of pseudo-outcomes.

    Parameters
    ----------
    evidence : (B,) float64
        Restricted log likelihood of all rows, the noise variance profiled out, up to a constant.
    evidence_without : (S, B) float64
        That of the rows outside the row's group.
    residual : (S, B) float64
        u less its prediction by the fit without the row's group.
    """

    evidence: FloatArray
    evidence_without: FloatArray
    residual: FloatArray


def leave_out(system: KernelRidge, gamma: float, U: FloatArray, groups: list[IntArray]) -> LeaveOut:
    """Fit one candidate without each group; ``groups`` are the rows by group, stacked by size: (G_m, m) arrays."""
    S = len(U)
    shrink = 1 / (1 + gamma * system.values)
    Q = system.root[:, None] * system.vectors
    c = Q @ (shrink * Q.sum(axis=0))
    total = c.sum()
    PU = Q @ (shrink[:, None] * (Q.T @ U)) - np.outer(c, c @ U) / total
    quadratic = (U * PU).sum(axis=0)
    determinant = np.log1p(gamma * system.values).sum() + np.log(total)
    residual, without = np.empty_like(U), np.empty_like(U)
    for rows in groups:
        inside = (Q[rows] * shrink) @ Q[rows].transpose(0, 2, 1) - c[rows][:, :, None] * c[rows][:, None, :] / total
        residual[rows] = np.linalg.solve(inside, PU[rows])
        left = quadratic - (PU[rows] * residual[rows]).sum(axis=1)
        log_likelihood = _evidence(determinant + np.linalg.slogdet(inside)[1][:, None], S - rows.shape[1] - 1, left)
        without[rows] = log_likelihood[:, None, :]
    return LeaveOut(_evidence(determinant, S - 1, quadratic), without, residual)


def _evidence(determinant: FloatArray, degrees: int, quadratic: FloatArray) -> FloatArray:
    return np.asarray(-0.5 * (determinant + degrees * np.log(np.maximum(quadratic, _SMALLEST))))


class SoftMean:
    """Mean of values weighted by exp(log weight), one at a time: only differences of log weights matter."""

    def __init__(self) -> None:
        self._largest: FloatArray | float = -np.inf
        self._total: FloatArray | float = 0.0
        self._sum: FloatArray | float = 0.0

    def add(self, log_weight: FloatArray, value: FloatArray) -> None:
        """Add a value; the log weight has its shape or one that broadcasts to it."""
        largest = np.maximum(self._largest, log_weight)
        kept, weight = np.exp(self._largest - largest), np.exp(log_weight - largest)
        self._total = self._total * kept + weight
        self._sum = self._sum * kept + weight * value
        self._largest = largest

    @property
    def mean(self) -> FloatArray:
        """The mean of what was added."""
        return np.asarray(self._sum / self._total)


@dataclass(frozen=True)
class Average:
    """Prediction of a row: intercept + sum over blocks of its kernel with the training rows times ``alpha[s]``."""

    intercept: float
    alpha: FloatArray


def fit_average(
    candidates: list[Candidates], u: FloatArray, weights: FloatArray, groups: list[IntArray], *, copies: int = 1
) -> Average:
    """(SUB + AVG) / 2 of METHODS.md, section 8, for u (S,) and row weights (S,).

    Each row stands for ``copies`` of itself in the evidence, whose log is then ``copies`` times that of the rows.
    """
    S, num_blocks = len(u), 1 + max(max(one.subset) for one in candidates)
    everything, singles = SoftMean(), [SoftMean() for _ in range(num_blocks)]
    for one in candidates:
        for gamma in GAMMAS:
            found = leave_out(one.system, gamma, u[:, None], groups)
            intercept, alpha = one.system.coefficients(gamma, u)
            by_block = np.zeros((num_blocks, S))
            by_block[list(one.subset)] = one.share * alpha
            state = np.concatenate([[intercept], by_block.ravel(), u - found.residual[:, 0]])
            everything.add(copies * found.evidence / 2, state)
            if len(one.subset) == 1:
                singles[one.subset[0]].add(copies * found.evidence / 2, state)
    average = np.mean([single.mean for single in singles], axis=0)
    centre = np.average(u, weights=weights)
    slope = _clip_slope(*_moments(u - centre, average[-S:] - centre, weights), num_blocks)
    average[0] = centre + slope * (average[0] - centre)
    average[1:] *= slope
    both = (everything.mean + average) / 2
    return Average(float(both[0]), both[1:-S].reshape(num_blocks, S))


def leave_out_average(
    candidates: list[Candidates], U: FloatArray, weights: FloatArray, groups: list[IntArray]
) -> FloatArray:
    """Predictions (S, B) of each row by the average that is fitted without its group, for each column of U (S, B).

    Weights over candidates and the slope depend on u: they are found anew for every column and group.

    Raises
    ------
    EvaluationError
        With a single group: nothing would be left.
    """
    if sum(len(rows) for rows in groups) < 2:
        raise EvaluationError("all rows are in one group: leaving one out needs at least 2")
    everything = SoftMean()
    singles: list[tuple[KernelRidge, list[FloatArray]]] = []
    alone = np.zeros_like(U)
    for one in candidates:
        single, evidence = SoftMean(), []
        for gamma in GAMMAS:
            found = leave_out(one.system, gamma, U, groups)
            everything.add(found.evidence_without / 2, U - found.residual)
            single.add(found.evidence_without / 2, U - found.residual)
            evidence.append(found.evidence_without)
        if len(one.subset) == 1:
            singles.append((one.system, evidence))
            alone += single.mean
    centre, slope = np.empty_like(U), np.empty_like(U)
    step = max(1, _CHUNK // len(U) ** 2)
    for start in range(0, U.shape[1], step):
        part = slice(start, start + step)
        systems = [(system, [e[:, part] for e in evidence]) for system, evidence in singles]
        centre[:, part], slope[:, part] = _calibrate_without(systems, U[:, part], weights, groups)
    return (everything.mean + centre + slope * (alone / len(singles) - centre)) / 2


def _calibrate_without(
    singles: list[tuple[KernelRidge, list[FloatArray]]], U: FloatArray, weights: FloatArray, groups: list[IntArray]
) -> tuple[FloatArray, FloatArray]:
    """Weighted mean of u and slope of AVG without each row's group, (S, B) each."""
    firsts = np.concatenate([rows[:, 0] for rows in groups])
    average = np.zeros((len(firsts), *U.shape))
    for system, evidence in singles:
        mean = SoftMean()
        for gamma, without in zip(GAMMAS, evidence, strict=True):
            mean.add(without[firsts][:, None, :] / 2, U - _residuals_without(system.projection(gamma), U, groups))
        average += mean.mean / len(singles)
    centre, slope = np.empty_like(U), np.empty_like(U)
    kept = np.ones(len(U), dtype=bool)
    for place, inside in enumerate(rows for stack in groups for rows in stack):
        kept[inside] = False
        middle = np.average(U[kept], axis=0, weights=weights[kept])
        moments = _moments(U[kept] - middle, average[place][kept] - middle, weights[kept])
        centre[inside], slope[inside] = middle, _clip_slope(*moments, len(singles))
        kept[inside] = True
    return centre, slope


def _residuals_without(P: FloatArray, U: FloatArray, groups: list[IntArray]) -> FloatArray:
    """Residuals (G, S, B): of each row in the fit without group g and without the row's own group; in g: U."""
    PU = P @ U
    if len(groups) == 1 and groups[0].shape[1] == 1:
        order = groups[0][:, 0]
        diagonal = np.diag(P)
        minor = diagonal[order, None] * diagonal - P[order] ** 2
        minor[np.arange(len(order)), order] = 1.0
        found = (diagonal[order, None] / minor)[:, :, None] * PU - (P[order] / minor)[:, :, None] * PU[order][:, None]
        found[np.arange(len(order)), order] = U[order]
        return np.asarray(found)
    blocks = [P[rows[:, :, None], rows[:, None, :]] for rows in groups]
    found = np.empty((sum(len(rows) for rows in groups), *U.shape))
    for place, inside in enumerate(rows for stack in groups for rows in stack):
        T = np.linalg.solve(P[np.ix_(inside, inside)], P[inside]).T
        left = PU - T @ PU[inside]
        for rows, own in zip(groups, blocks, strict=True):
            downdated = own - T[rows] @ P[inside][:, rows].transpose(1, 0, 2)
            if rows.shape[1] == len(inside):
                downdated[(rows == inside).all(axis=1)] = np.eye(len(inside))
            found[place, rows] = np.linalg.solve(downdated, left[rows])
        found[place, inside] = U[inside]
    return found


def _moments(u: FloatArray, p: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.asarray(weights @ (u * p)), np.asarray(weights @ (p * p))


def _clip_slope(product: FloatArray, square: FloatArray, num_blocks: int) -> FloatArray:
    """Slope in [.5, number of blocks]; 1 where the predictions do not vary."""
    varies = square > _SMALLEST
    slope = np.where(varies, product / np.where(varies, square, 1.0), 1.0)
    return np.asarray(np.clip(slope, _LEAST_SLOPE, num_blocks))
