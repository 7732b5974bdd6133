"""Kernel ridge with an unpenalised mean, and its exact leave-block-out predictions (METHODS.md, section 8, RidgeR).

y = b + f + noise, f ~ gamma K, noise ~ diag(1 / w): V = gamma K + diag(1 / w), b the GLS intercept,
P = V^-1 - V^-1 1 1' V^-1 / (1' V^-1 1). The residual of block g in the fit without it is P_gg^-1 (P y)_g, so all
leave-block-out predictions are one matrix times y, and any number of pseudo-outcomes costs one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from eo_cate.errors import EvaluationError
from eo_cate.types import FloatArray, IntArray

KERNELS = ("rbf", "linear")
_WIDEST = 1e8
_REACHABLE = 0.95
_SAME_PLACE = 1e-12


@dataclass(frozen=True)
class Kernel:
    """``linear``: a'b; ``rbf``: exp(-|a - b|^2 / scale)."""

    name: str
    scale: float

    def __call__(self, A: FloatArray, B: FloatArray) -> FloatArray:
        """Kernel of rows (S, P) and (T, P), shape (S, T)."""
        if self.name == "linear":
            return np.asarray(A @ B.T)
        return np.asarray(np.exp(-squared_distances(A, B) / self.scale))


def squared_distances(A: FloatArray, B: FloatArray) -> FloatArray:
    """|a - b|^2 of rows (S, P) and (T, P), shape (S, T), through one matrix product."""
    squares = (A * A).sum(axis=1)[:, None] + (B * B).sum(axis=1) - 2 * (A @ B.T)
    return np.asarray(np.maximum(squares, 0.0))


def make_kernel(name: str, A: FloatArray) -> Kernel:
    """A kernel whose scale is the median squared distance between distinct training rows A (S, P).

    Raises
    ------
    EvaluationError
        For an unknown kernel.
    """
    if name not in KERNELS:
        raise EvaluationError(f"`kernel` is {name!r}: choose one of {KERNELS}")
    if name == "linear":
        return Kernel(name, 1.0)
    distances = squared_distances(A, A)[np.triu_indices(len(A), 1)]
    distances = distances[distances > _SAME_PLACE * distances.max(initial=0.0)]
    return Kernel(name, float(np.median(distances)) if len(distances) else 1.0)


@dataclass(frozen=True)
class KernelRidge:
    """One decomposition of a kernel that serves every gamma.

    Parameters
    ----------
    root : (S,) float64
        sqrt(w), w the row weights, of mean 1.
    vectors, values : (S, S) and (S,) float64
        Eigenvectors and eigenvalues of sqrt(w) K sqrt(w).
    """

    root: FloatArray
    vectors: FloatArray
    values: FloatArray

    def solve_gamma(self, degrees_of_freedom: float) -> float:
        """Gamma with tr(H) - 1 = ``degrees_of_freedom``, at most S / 4 and 95 % of what the kernel can reach."""
        largest = float(self.values.max(initial=0.0))
        if largest <= 0:
            return 0.0
        low, high = np.log(1e-10 / largest), np.log(_WIDEST / largest)
        wanted = min(degrees_of_freedom, len(self.root) / 4, _REACHABLE * self._freedom(np.exp(high)))
        return float(np.exp(brentq(lambda x: self._freedom(np.exp(x)) - wanted, low, high, xtol=1e-12)))

    def _freedom(self, gamma: float) -> float:
        shrink = 1 / (1 + gamma * self.values)
        s = self.vectors.T @ self.root
        return float(np.sum(gamma * self.values * shrink) + np.sum((s * shrink) ** 2) / np.sum(s * s * shrink) - 1)

    def coefficients(self, gamma: float, y: FloatArray) -> tuple[float, FloatArray]:
        """Intercept b, and alpha (S,) such that a row of kernel k has the prediction b + k' alpha."""
        shrink = 1 / (1 + gamma * self.values)
        s, z = self.vectors.T @ self.root, self.vectors.T @ (self.root * y)
        b = float(np.sum(s * z * shrink) / np.sum(s * s * shrink))
        return b, gamma * self.root * (self.vectors @ ((z - b * s) * shrink))

    def projection(self, gamma: float) -> FloatArray:
        """P, shape (S, S)."""
        M = (self.vectors / (1 + gamma * self.values)) @ self.vectors.T
        inverse = self.root[:, None] * M * self.root
        total = inverse.sum(axis=0)
        return np.asarray(inverse - np.outer(total, total) / total.sum())

    def leave_out_matrix(self, gamma: float, blocks: IntArray) -> FloatArray:
        """L (S, S) with (L y) the predictions of each row by the fit without its block (labels (S,)).

        Raises
        ------
        EvaluationError
            With a single block: nothing would be left.
        """
        members = _members(blocks)
        if len(members) < 2:
            raise EvaluationError(f"{len(members)} block(s): leaving one out needs at least 2")
        P = self.projection(gamma)
        L = np.eye(len(P))
        for inside in members:
            L[inside] -= np.linalg.solve(P[np.ix_(inside, inside)], P[inside])
        return L

    def log_evidence(self, gamma: float, y: FloatArray) -> float:
        """Restricted log likelihood of y (S,), the noise variance profiled out, up to a constant."""
        shrink = 1 / (1 + gamma * self.values)
        s, z = self.vectors.T @ self.root, self.vectors.T @ (self.root * y)
        total = np.sum(s * s * shrink)
        quadratic = np.sum(z * z * shrink) - np.sum(s * z * shrink) ** 2 / total
        determinant = np.sum(np.log1p(gamma * self.values))
        return float(-0.5 * (determinant + np.log(total) + (len(y) - 1) * np.log(quadratic)))


def decompose(K: FloatArray, weights: FloatArray) -> KernelRidge:
    """Decompose a kernel (S, S) under row weights (S,), which are brought to mean 1.

    Raises
    ------
    EvaluationError
        With fewer than 2 rows, or weights that are not positive.
    """
    if len(K) < 2:
        raise EvaluationError(f"{len(K)} distinct row(s) of features: a ridge needs at least 2")
    bad = int((weights <= 0).sum())
    if bad:
        raise EvaluationError(f"{bad} of {len(weights)} sites have no weight: drop their units")
    root = np.sqrt(weights / weights.mean())
    values, vectors = np.linalg.eigh(root[:, None] * K * root)
    noise = len(K) * np.finfo(np.float64).eps * values[-1]
    return KernelRidge(root, vectors, np.where(values > noise, values, 0.0))


def _members(blocks: IntArray) -> list[IntArray]:
    order = np.argsort(blocks, kind="stable")
    return [part.astype(np.int64) for part in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1)]
