"""From leaf means to tau_hat and its debiased little-bags variance, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from eo_cate.estimators.forest.trees import NUM_MOMENTS, GrownTree
from eo_cate.types import BoolArray, FloatArray, IntArray

Bag = tuple[GrownTree, GrownTree]


@dataclass(frozen=True)
class Estimates:
    """tau_hat and std_err of each row, shape (n,); NaN where no tree, or no variation of W, speaks for the row."""

    tau_hat: FloatArray
    std_err: FloatArray | None


def estimate_rows(
    bags: Sequence[Bag], matrix: FloatArray, *, use: BoolArray | None = None, std_err: bool = False
) -> Estimates:
    """Estimate each row from all bags, or from the bags that ``use`` (bags, n) allows it.

    Each row is summed over bags in their order: the result does not depend on which rows come along.
    """
    leaves = np.empty((len(bags), 2, len(matrix)), dtype=np.int32)
    sums, count = np.zeros((len(matrix), NUM_MOMENTS)), np.zeros(len(matrix), dtype=np.int64)
    for b, bag in enumerate(bags):
        rows = slice(None) if use is None else np.flatnonzero(use[b])
        count[rows] += 1
        for t, grown in enumerate(bag):
            leaves[b, t] = grown.apply(matrix)
            sums[rows] += grown.means[leaves[b, t, rows]]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / (2 * count)[:, None]
        tau_hat = solve_effect(means)
    if not std_err:
        return Estimates(tau_hat=tau_hat, std_err=None)
    variance = _variance(bags, leaves, use, influence_coefficients(means, tau_hat), count)
    return Estimates(tau_hat=tau_hat, std_err=np.sqrt(variance))


def solve_effect(means: FloatArray) -> FloatArray:
    """tau_hat = (omega WY - W Y) / (omega WW - W W) from mean moments (n, 5); NaN where W does not vary."""
    omega, Y, W, WY, WW = means.T
    spread = omega * WW - W * W
    tau_hat = np.full(len(means), np.nan)
    np.divide(omega * WY - W * Y, spread, out=tau_hat, where=spread > 1e-10 * omega * WW)
    return tau_hat


def influence_coefficients(means: FloatArray, tau_hat: FloatArray) -> FloatArray:
    """Coefficients (n, 5) that turn a tree's leaf means into its r_t (METHODS.md, section 8, 9).

    r_t = [omega (WY_t - WW_t tau - W_t mu) - W (Y_t - W_t tau - omega_t mu)] / (omega WW - W W); omega is 1 without
    weights, and then this is the formula there.
    """
    omega, Y, W, _, WW = means.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mu = (Y - W * tau_hat) / omega
        parts = np.stack([W * mu, -W, W * tau_hat - omega * mu, omega, -omega * tau_hat], axis=1)
        coefficients: FloatArray = parts / (omega * WW - W * W)[:, None]
    return coefficients


def _variance(
    bags: Sequence[Bag], leaves: NDArray[np.int32], use: BoolArray | None, coefficients: FloatArray, count: IntArray
) -> FloatArray:
    between, total = np.zeros(len(coefficients)), np.zeros(len(coefficients))
    for b, bag in enumerate(bags):
        rows = slice(None) if use is None else np.flatnonzero(use[b])
        first, second = (
            np.einsum("ij,ij->i", coefficients[rows], grown.means[leaves[b, t, rows]]) for t, grown in enumerate(bag)
        )
        between[rows] += ((first + second) / 2) ** 2
        total[rows] += (first**2 + second**2) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return debiased_variance(between / count, total / count, count)


def debiased_variance(between: FloatArray, total: FloatArray, num_bags: IntArray) -> FloatArray:
    """Posterior mean of the variance between bags, free of Monte-Carlo noise (METHODS.md, section 8, 9).

    Parameters
    ----------
    between, total : (n,)
        Mean over bags of the squared mean of the bag's two r, and mean over trees of r squared.
    num_bags : (n,) int

    Returns
    -------
    (n,) float64
        d + s phi(d/s) / Phi(d/s), d = between - noise, noise = total - between, s = max(between, noise) sqrt(2/bags).
    """
    noise = total - between
    d = between - noise
    s = np.maximum(between, noise) * np.sqrt(2 / num_bags)
    z = np.divide(d, s, out=np.zeros_like(d), where=s > 0)
    ratio = np.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - log_ndtr(z))
    return np.where(s > 0, d + s * ratio, d)
