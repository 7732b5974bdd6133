"""The arithmetic of tau_hat and its debiased little-bags variance (METHODS.md, section 8, 8 and 9)."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr

from eo_cate.types import FloatArray, IntArray


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
