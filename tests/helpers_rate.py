"""RATE written plainly in numpy: the reference that the kernel is held to, and the rival of benchmarks/rate.py."""

import numpy as np

from eo_cate.stats.checks import group_codes, vector, weights_vector
from eo_cate.stats.half_samples import draw_half_samples

CHUNK = 1_000_000


def reference_rate(
    dr_scores, priorities, *, target="AUTOC", q=None, num_replicates=200, sample_weights=None, groups=None, seed=0
):
    """As `rate` for one priority: estimate, std_err, toc (Q,), toc_std_err (Q,); every step over whole arrays."""
    scores, priority = vector("dr_scores", dr_scores), vector("priorities", priorities)
    codes, num_groups = group_codes(groups, len(scores))
    weights = weights_vector(sample_weights, len(scores), codes=codes)
    shares = np.arange(1, 11) / 10 if q is None else np.asarray(q, dtype=float)
    members = draw_half_samples(num_groups, num_replicates, seed=seed)
    point = reference_statistics(scores, weights[None, :], priority, shares, target)[0]
    step = max(1, CHUNK // len(scores))
    blocks = [members[start : start + step][:, codes] * weights for start in range(0, len(members), step)]
    replicates = np.concatenate([reference_statistics(scores, b, priority, shares, target) for b in blocks])
    std_err = replicates.std(axis=0, ddof=1)
    return point[0], std_err[0], point[1:], std_err[1:]


def reference_statistics(scores, weights, priority, shares, target):
    """[RATE, TOC(q)...] under each row of weights (B, n), shape (B, 1 + Q); METHODS.md, section 2."""
    draws, n = weights.shape
    order = np.argsort(-priority, kind="stable")
    ordered = priority[order]
    ties = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(ties) == 1:
        return np.zeros((draws, 1 + len(shares)))
    w = np.take(weights, order, axis=1)
    gain = w * (scores - np.average(scores, weights=weights.sum(axis=0)))[order]
    if len(ties) < n:
        masses = np.add.reduceat(w, ties, axis=1)
        means = np.add.reduceat(gain, ties, axis=1) / np.where(masses > 0, masses, 1.0)
        gain = w * np.repeat(means, np.diff(np.append(ties, n)), axis=1)
    cumulated_w, cumulated = np.zeros((draws, n + 1)), np.zeros((draws, n + 1))
    np.cumsum(w, axis=1, out=cumulated_w[:, 1:])
    np.cumsum(gain, axis=1, out=cumulated[:, 1:])
    total, mean = cumulated_w[:, -1], cumulated[:, -1] / cumulated_w[:, -1]

    result = np.empty((draws, 1 + len(shares)))
    for row in range(draws):
        treated = shares * total[row]
        result[row, 1:] = np.interp(treated, cumulated_w[row], cumulated[row]) / treated - mean[row]
    toc = cumulated[:, 1:] / np.where(cumulated_w[:, 1:] > 0, cumulated_w[:, 1:], 1.0) - mean[:, None]
    if target == "QINI":
        toc *= cumulated_w[:, 1:] / total[:, None]
    result[:, 0] = np.einsum("ij,ij->i", w, toc) / total
    return result
