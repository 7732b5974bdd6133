"""Doubly robust scores of the treatment effect with a known propensity."""

from __future__ import annotations

from numpy.typing import ArrayLike

from eo_cate.stats.checks import propensity_vector, treatment_vector, vector
from eo_cate.types import FloatArray


def doubly_robust_scores(
    Y: ArrayLike, W: ArrayLike, *, propensity: ArrayLike, Y_hat: ArrayLike, tau_hat: ArrayLike | float
) -> FloatArray:
    """Gamma = tau_hat + (W - e) / (e (1 - e)) (Y - Y_hat - (W - e) tau_hat) (METHODS.md, section 1).

    Parameters
    ----------
    Y, W : (n,)
        Outcome, and treatment in {0, 1}.
    propensity : (n,) or scalar
        e = P(W = 1).
    Y_hat : (n,)
        E[Y | x], learnt from other groups.
    tau_hat : (n,) or scalar
        Effect, learnt from other groups. With a known propensity neither it nor ``Y_hat`` biases the mean score.

    Returns
    -------
    (n,) float64, in the units of the outcome.

    Raises
    ------
    EvaluationError
        On NaN or infinite values, other lengths, W outside {0, 1}, a propensity outside (0, 1).
    """
    y = vector("Y", Y)
    w, e = treatment_vector(W, len(y)), propensity_vector(propensity, len(y))
    m = vector("Y_hat", Y_hat, length=len(y))
    effect = vector("tau_hat", _spread(tau_hat, len(y)), length=len(y))
    return effect + (w - e) / (e * (1 - e)) * (y - m - (w - e) * effect)


def _spread(value: ArrayLike | float, length: int) -> ArrayLike:
    return [value] * length if isinstance(value, int | float) else value
