"""A tiny real CATE estimator: ridge of the transformed outcome on centred columns."""

import numpy as np

from eo_cate.types import as_blocks


class RidgeEffect:
    """R-learner with known propensity: Y = a + (W - e)(c + x'b), b penalised."""

    def __init__(self, penalty=1.0):
        self.penalty = penalty

    def fit(self, X, Y, W, *, propensity, sample_weights=None, groups=None):
        x = as_blocks(X).gather().astype(float)
        self.mean, self.scale = x.mean(axis=0), x.std(axis=0) + 1e-9
        z = np.column_stack([np.ones(len(x)), (x - self.mean) / self.scale])
        weights = np.ones(len(Y)) if sample_weights is None else sample_weights
        design = (W - propensity)[:, None] * z
        outcome = Y - np.average(Y, weights=weights)
        gram = design.T @ (weights[:, None] * design)
        gram[1:, 1:] += self.penalty * len(Y) * np.eye(x.shape[1])
        self.coefficients = np.linalg.solve(gram, design.T @ (weights * outcome))
        return self

    def predict(self, X):
        x = (as_blocks(X).gather() - self.mean) / self.scale
        return self.coefficients[0] + x @ self.coefficients[1:]


class ConstantEffect:
    """One number for everybody."""

    def fit(self, X, Y, W, *, propensity, sample_weights=None, groups=None):
        self.effect = float(np.mean((W - propensity) / (propensity * (1 - propensity)) * Y))
        return self

    def predict(self, X):
        return np.full(len(X), self.effect)
