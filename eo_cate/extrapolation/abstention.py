"""How much better a map gets when it keeps silent where it is unsure (METHODS.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.stats.checks import group_codes, vector, weights_vector
from eo_cate.stats.vcov import mean_variance
from eo_cate.types import BoolArray, FloatArray, IntArray

DEFAULT_SHARES = tuple(k / 20 for k in range(1, 21))


@dataclass(frozen=True)
class RiskCoverage:
    """Mean loss among the cells for which the map speaks, the surest first.

    Parameters
    ----------
    share : (K,) float64
        Share of all cells (by weight) for which the map speaks.
    risk, std_err : (K,) float64
        Weighted mean loss among them, and its standard error by group; NaN beyond ``share_speakable``.
    uncertainty : (K,) float64
        width / |tau_hat|, or the given order, of the last cell for which it speaks.
    best_risk : (K,) float64
        Of the same shares of the speakable cells with the smallest losses: no order can do better.
    share_speakable : float
        Share of cells with an effect and a width.
    area, chance_area, best_area : float
        Mean risk over the shares up to ``share_speakable``: ordered by uncertainty, in random order, in the best order.
        Ties count at the end of their block.
    """

    share: FloatArray
    risk: FloatArray
    std_err: FloatArray
    uncertainty: FloatArray
    best_risk: FloatArray
    share_speakable: float
    area: float
    chance_area: float
    best_area: float


def risk_coverage(
    tau_hat: ArrayLike,
    width: ArrayLike,
    loss: ArrayLike,
    *,
    order: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    shares: ArrayLike | None = None,
) -> RiskCoverage:
    """Risk-coverage curve: cells enter by width / |tau_hat|, those whose sign is surest first.

    Parameters
    ----------
    tau_hat, width : (n,)
        Effect and half-width of its band (not negative); where either is NaN the map is silent.
    loss : (n,)
        What an answer costs: (tau_hat - tau)^2 or a wrong sign in a simulation, in a trial the DR loss
        (score - tau_hat)^2, whose noise raises the whole curve. Finite where the map can speak.
    order : (n,), optional
        Where another order is asked about: cells enter from the smallest value. Finite where the map can speak.
    weights : (n,), optional
        People or area of the cells.
    groups : (n,) labels, optional
        Of the standard errors; every cell its own when absent.
    shares : (K,), optional
        In (0, 1]; 0.05, 0.10, ..., 1 when absent.

    Returns
    -------
    RiskCoverage

    Raises
    ------
    EvaluationError
        On bad vectors, negative widths, shares outside (0, 1], or when the map can speak for no cell.

    Notes
    -----
    El-Yaniv and Wiener (2010). Cells of equal uncertainty enter together, each with the same fraction, so their order
    does not matter.
    """
    effects, reach = np.asarray(tau_hat, dtype=np.float64), np.asarray(width, dtype=np.float64)
    if effects.ndim != 1 or reach.shape != effects.shape:
        raise EvaluationError(f"`tau_hat` has shape {effects.shape}, `width` {reach.shape}: one of each per cell")
    n = len(effects)
    speaks = np.isfinite(effects) & np.isfinite(reach)
    people, cost = weights_vector(weights, n), np.asarray(loss, dtype=np.float64)
    if cost.shape != (n,):
        raise EvaluationError(f"`loss` has shape {cost.shape}, but there are {n} cells: one per cell")
    cost = vector("loss", np.where(speaks, cost, 0.0))
    codes, _ = group_codes(groups, n)
    negative = int((reach[speaks] < 0).sum())
    if negative:
        raise EvaluationError(f"`width` is negative for {negative} cells: give half-widths")
    if not people[speaks].sum() > 0:
        raise EvaluationError(f"none of {n} cells with weight has an effect and a width: the map is silent everywhere")
    grid = vector("shares", DEFAULT_SHARES if shares is None else shares)
    if ((grid <= 0) | (grid > 1)).any():
        raise EvaluationError("`shares` must lie in (0, 1]")

    if order is None:
        with np.errstate(divide="ignore", invalid="ignore"):
            uncertainty = np.where(effects == 0, np.inf, reach / np.abs(effects))
    else:
        given = np.asarray(order, dtype=np.float64)
        if given.shape != (n,):
            raise EvaluationError(f"`order` has shape {given.shape}, but there are {n} cells: one per cell")
        uncertainty = vector("order", np.where(speaks, given, 0.0))
    speakable = float(people[speaks].sum() / people.sum())
    sure, best = _enter(uncertainty, people, speaks), _enter(cost, people, speaks)
    curve = np.full((len(grid), 4), np.nan)
    for k, q in enumerate(grid):
        if q <= speakable * (1 + 1e-12):
            answered = people * sure.fraction(q)
            risk, std_err = _weighted_mean(cost, answered, codes)
            lowest = float(np.average(cost, weights=people * best.fraction(q)))
            curve[k] = risk, std_err, uncertainty[answered > 0].max(), lowest
    return RiskCoverage(
        share=grid,
        risk=curve[:, 0],
        std_err=curve[:, 1],
        uncertainty=curve[:, 2],
        best_risk=curve[:, 3],
        share_speakable=speakable,
        area=sure.area(cost),
        chance_area=float(np.average(cost[speaks], weights=people[speaks])),
        best_area=best.area(cost),
    )


@dataclass(frozen=True)
class _Entry:
    """Order in which cells start to speak.

    Parameters
    ----------
    before, size : (n,) float64
        Weight share that enters before the cell's ties, and that of its ties with itself; silent cells never enter.
    order : (m,) int64
        Cells with weight that can speak, the first to enter first.
    last : (m,) int64
        Position of the last of each one's ties.
    people : (n,) float64
        Shares of weight.
    """

    before: FloatArray
    size: FloatArray
    order: IntArray
    last: IntArray
    people: FloatArray

    def fraction(self, share: float) -> FloatArray:
        """Part of each cell that speaks when this share of the weight does, (n,)."""
        return np.clip((share - self.before) / self.size, 0.0, 1.0)

    def area(self, cost: FloatArray) -> float:
        """Mean of the risk at each cell's entry."""
        weight = self.people[self.order]
        risk = np.cumsum(weight * cost[self.order]) / np.cumsum(weight)
        return float(np.average(risk[self.last], weights=weight))


def _enter(key: FloatArray, people: FloatArray, speaks: BoolArray) -> _Entry:
    """Smallest key first; equal keys together."""
    share = people / people.sum()
    able = np.flatnonzero(speaks & (people > 0))
    order = able[np.argsort(key[able], kind="stable")]
    ranked = key[order]
    first, last = (np.searchsorted(ranked, ranked, side="left"), np.searchsorted(ranked, ranked, side="right") - 1)
    reached = np.concatenate([[0.0], np.cumsum(share[order])])
    before, size = np.full(len(key), np.inf), np.ones(len(key))
    before[order], size[order] = reached[first], reached[last + 1] - reached[first]
    return _Entry(before, size, order, last.astype(np.int64), share)


def _weighted_mean(cost: FloatArray, weights: FloatArray, codes: IntArray) -> tuple[float, float]:
    """Mean and its standard error by group; NaN from one group."""
    used = weights > 0
    mean = float(np.average(cost[used], weights=weights[used]))
    _, present = np.unique(codes[used], return_inverse=True)
    if present.max() == 0:
        return mean, float("nan")
    return mean, float(np.sqrt(mean_variance(cost[used] - mean, weights[used], present)))
